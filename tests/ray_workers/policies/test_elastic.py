"""How many workers of a range train, when more begin anew, and when training goes on by itself after a group ended."""

from __future__ import annotations

import pytest

from ray_workers.policies.elastic import GivingBack, GoingOn, GroupEnd, GrowthRule, WorkerRange
from ray_workers.store.errors import InvalidInputError

TWO_TO_FOUR = WorkerRange(least=2, most=4)


@pytest.mark.parametrize(
    ("room", "unfit", "workers"),
    [
        (0, (), None), (1, (), None), (2, (), 2), (3, (), 3), (4, (), 4), (9, (), 4),
        (3, (3,), 2), (4, (3,), 4), (9, (4, 3), 2), (2, (2,), None), (9, (2, 3, 4), None),
    ],
)  # fmt: skip
def test_as_many_train_as_there_is_room_for_within_the_range(room, unfit, workers):
    limits = TWO_TO_FOUR
    for number in unfit:
        limits = limits.without(number)
    assert limits.fitting(room) == workers


@pytest.mark.parametrize(("least", "most"), [(0, 2), (3, 2), (-1, -1)])
def test_what_is_no_range_is_refused(least, most):
    with pytest.raises(InvalidInputError, match="is no range"):
        WorkerRange(least=least, most=most)


@pytest.mark.parametrize(
    ("workers", "free", "there_s", "wanted"),
    [
        (2, 0, 99, None), (2, 1, 9.9, None), (2, 1, 10, 3), (2, 2, 10, 4), (2, 7, 10, 4), (4, 7, 99, None),
    ],
)  # fmt: skip
def test_more_begin_anew_only_when_room_has_been_there_a_while(workers, free, there_s, wanted):
    rule = GrowthRule(after_s=10)
    assert rule.wanted(TWO_TO_FOUR, workers=workers, free=free, there_s=there_s) == wanted


def test_a_number_that_the_loop_refused_is_no_reason_to_begin_anew():
    rule, limits = GrowthRule(after_s=0), TWO_TO_FOUR.without(3)
    assert rule.wanted(limits, workers=2, free=1, there_s=9) is None
    assert rule.wanted(limits, workers=2, free=2, there_s=9) == 4


@pytest.mark.parametrize(
    ("held", "still_s", "chance", "due"),
    [
        (1, 29.9, 0.0, False), (1, 30, 0.0, True), (1, 44, 0.5, False), (1, 45, 0.5, True),
        (0, 999, 0.0, False), (3, 999, 0.0, False), (4, 999, 0.0, False), (2, 30, 0.0, True),
    ],
)  # fmt: skip
def test_places_that_are_too_few_or_of_no_use_are_given_back_after_a_while(
    held, still_s, chance, due
):
    limits = TWO_TO_FOUR.without(2)
    assert GivingBack().due(limits, held=held, still_s=still_s, chance=chance) is due


def test_the_pause_before_they_are_asked_for_again_is_a_matter_of_chance():
    assert [GivingBack().pause(chance) for chance in (0.0, 1.0)] == [5.0, 10.0]


@pytest.mark.parametrize(
    ("end", "fruitless", "goes_on"),
    [
        (GroupEnd(asked=True), 5, True),
        (GroupEnd(unfit=True), 5, True),
        (GroupEnd(lost=True), 0, True),
        (GroupEnd(lost=True), 1, True),
        (GroupEnd(lost=True), 2, False),
        (GroupEnd(), 0, False),
    ],
)
def test_training_goes_on_by_itself_but_not_for_ever_in_the_same_place(end, fruitless, goes_on):
    assert GoingOn().goes_on(end, TWO_TO_FOUR, fruitless=fruitless) is goes_on


def test_with_no_number_left_the_refusal_goes_up():
    nothing = WorkerRange(least=2, most=2).without(2)
    assert not GoingOn().goes_on(GroupEnd(unfit=True), nothing, fruitless=0)
