from datetime import UTC, datetime, timedelta

import pytest

from ray_workers.storage_accounts import LetGoFacts, StoredVersionFacts, assess_storage

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


def stored_version(hours, *, stays=True):
    return StoredVersionFacts(
        run="a", rung="sound", bytes=100, bytes_new=100, at=at(hours * 3600), stays=stays
    )


def let_go(hours, kept_for):
    return LetGoFacts(bytes_new=100, at=at(hours * 3600), until=at((hours - kept_for) * 3600))


def test_a_store_whose_retention_lets_go_what_comes_does_not_grow():
    kept = [stored_version(hours) for hours in range(5)]
    gone = [let_go(hours, 5) for hours in range(5, 240)]  # one an hour for ten days, five are kept
    storage = assess_storage(kept, NOW, let_go=gone, budget=1000)
    assert (storage.stored, storage.growth_per_day) == (500, 0.0)
    assert (storage.in_30_days, storage.days_left) == (500, None)


def test_a_young_store_with_retention_grows_by_what_it_kept_since_its_first_commit():
    kept = [stored_version(hours) for hours in range(5)]
    gone = [let_go(hours, 5) for hours in range(5, 49)]
    storage = assess_storage(kept, NOW, let_go=gone)
    assert storage.growth_per_day == pytest.approx(500 / 2)


def test_what_waits_for_the_end_of_its_grace_is_stored_and_no_growth():
    kept = [stored_version(1), stored_version(24, stays=False)]
    storage = assess_storage(kept, NOW, let_go=[let_go(24, 20)])
    assert storage.stored == 200
    assert storage.growth_per_day == pytest.approx(100)


def test_a_store_that_shrinks_is_not_foretold_below_what_it_is():
    gone = [let_go(hours, hours - 1) for hours in range(200, 240)]
    storage = assess_storage([stored_version(1)], NOW, let_go=gone)
    assert (storage.growth_per_day, storage.in_30_days) == (0.0, 100)
