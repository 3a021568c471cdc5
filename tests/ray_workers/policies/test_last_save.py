import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_workers.policies.last_save import LastSave

SECONDS = st.floats(min_value=0, max_value=1e5)


@pytest.mark.parametrize(
    ("grace_s", "persist_s", "flights", "fits"),
    [
        (6.0, None, 0, True),  # nothing was measured: trying puts nothing at risk
        (6.0, None, 1, True),
        (0.4, None, 0, False),  # not even time to agree
        (6.0, 3.0, 0, True),
        (6.0, 4.0, 0, True),  # too slow by what was measured, and nothing that it could harm
        (6.0, 3.0, 1, False),  # the one in flight needs the store first
        (9.5, 3.0, 1, True),
        (0.0, 0.0, 0, False),
    ],
)
def test_a_last_save_must_fit_behind_what_is_in_flight(grace_s, persist_s, flights, fits):
    assert LastSave().fits(grace_s=grace_s, persist_s=persist_s, flights=flights) is fits


@given(grace=SECONDS, more=SECONDS, persist=SECONDS, longer=SECONDS, flights=st.integers(0, 4))
def test_more_grace_never_hurts_and_a_slower_store_never_helps(
    grace, more, persist, longer, flights
):
    def fits(grace_s, persist_s, open_saves):
        return LastSave().fits(grace_s=grace_s, persist_s=persist_s, flights=open_saves)

    assert fits(grace + more, persist, flights) >= fits(grace, persist, flights)
    assert fits(grace, persist + longer, flights) <= fits(grace, persist, flights)
    assert fits(grace, persist, flights + 1) <= fits(grace, persist, flights)


@given(grace=SECONDS, persist=st.none() | SECONDS)
def test_with_nothing_in_flight_it_is_always_tried_and_ends_within_the_grace(grace, persist):
    rule = LastSave()
    assert rule.fits(grace_s=grace, persist_s=persist, flights=0) is (grace > rule.reserve_s)
    assert rule.wait_s(grace_s=grace) == max(0.0, grace - rule.reserve_s)


@given(
    limit=st.floats(min_value=1, max_value=1e6),
    persist=st.none() | SECONDS,
    step=st.none() | SECONDS,
)
def test_the_lead_before_a_time_limit_holds_a_step_and_two_saves_and_never_more_than_half(
    limit, persist, step
):
    lead = LastSave().lead_s(limit_s=limit, persist_s=persist, step_s=step)
    assert 0 < lead <= limit / 2
    assert lead == limit / 2 or lead >= 12 + 2 * (persist or 0) + (step or 0)
