from datetime import UTC, datetime, timedelta

import pytest

from ray_workers.storage_accounts import StoredVersionFacts, assess_storage

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def at(seconds_ago):
    return (NOW - timedelta(seconds=seconds_ago)).isoformat()


def test_storage_is_told_by_run_rung_and_age():
    day = 86_400
    facts = [
        StoredVersionFacts(run="a", rung="sound", bytes=100, bytes_new=70, at=at(3600)),
        StoredVersionFacts(run="a", rung="committed", bytes=100, bytes_new=100, at=at(3 * day)),
        StoredVersionFacts(run="b", rung="sound", bytes=50, bytes_new=50, at=at(40 * day)),
    ]
    storage = assess_storage(facts, NOW, budget=392, orphans=5)
    assert (storage.stored, storage.saved_by_sharing, storage.orphans) == (220, 30, 5)
    assert storage.by_run == {"a": 170, "b": 50}
    assert storage.by_rung == {"sound": 120, "committed": 100}
    assert storage.by_age == {"under 1 day": 70, "under 7 days": 100, "older": 50}
    assert storage.growth_per_day == pytest.approx(170 / 7)
    assert storage.days_left == pytest.approx((392 - 220) / (170 / 7))
    assert storage.in_30_days == round(220 + 30 * 170 / 7)
    assert storage.shared == pytest.approx(30 / 250)
    assert assess_storage(facts, NOW).days_left is None


@pytest.mark.parametrize(("hours", "a_day"), [(0.9, None), (2, 1200.0), (48, 50.0)])
def test_growth_is_spread_over_the_time_that_there_was(hours, a_day):
    fact = StoredVersionFacts(run="a", rung="sound", bytes=100, bytes_new=100, at=at(hours * 3600))
    storage = assess_storage([fact], NOW, budget=1000)
    assert storage.growth_per_day == (None if a_day is None else pytest.approx(a_day))
    assert (storage.in_30_days is None, storage.days_left is None) == (a_day is None, a_day is None)
