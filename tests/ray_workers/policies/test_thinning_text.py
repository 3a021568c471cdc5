import pytest

from ray_workers.config import Retention
from ray_workers.policies.retention import RetentionPolicy, Thinning
from ray_workers.policies.thinning_text import parse_duration, parse_thinning, policy_of
from ray_workers.store.errors import InvalidInputError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("36h", 129600), ("7d", 604800), ("2w", 1209600)],
)
def test_a_length_of_time_is_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "1y", "-1h", "h", "1h1m", "nan", "1e9", "9" * 40])
def test_what_is_no_length_of_time_is_refused(text):
    with pytest.raises(InvalidInputError, match="36h"):
        parse_duration(text)


def test_bands_are_read():
    assert parse_thinning("1h/1d,1d/30d,7d") == (
        Thinning(every_s=3600, until_s=86400),
        Thinning(every_s=86400, until_s=30 * 86400),
        Thinning(every_s=7 * 86400),
    )


@pytest.mark.parametrize("text", ["1h,1d", "1h/1d,1d/1h", "1h/1d,1d/1d", "", "0h", "1h/0d", "1h/"])
def test_bands_that_make_no_sense_are_refused(text):
    with pytest.raises(InvalidInputError):
        parse_thinning(text)


def test_settings_become_a_policy():
    made = policy_of(Retention(keep_last=2, keep_every_epochs=3, thin="1h/1d,1d"))
    assert made == RetentionPolicy(
        keep_last=2, keep_every_epochs=3, thin=parse_thinning("1h/1d,1d")
    )
    assert policy_of(Retention()).keeps_everything
    assert not policy_of(Retention(thin="1d")).keeps_everything
