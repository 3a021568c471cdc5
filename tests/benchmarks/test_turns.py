from functools import partial
from itertools import count
from operator import contains, ge

from benchmarks.turns import Turns, pairs_of, stretches_of


def played(*, steps, every=10, saves=2, warm=1):
    """A controller that wants a save whenever so many steps passed since the last; a step takes a second."""
    seconds = count()
    turns = Turns(saves=saves, warm=warm, clock=lambda: next(seconds))
    saved = [0]
    for step in range(1, steps + 1):
        if turns.due(step, partial(ge, step - saved[-1], every)):
            saved.append(step)
    return turns, saved[1:]


def test_stretches_take_turns_and_each_holds_whole_intervals():
    turns, saved = played(steps=150)
    assert [(mark.saving, mark.step) for mark in turns.marks] == [
        (True, 20), (False, 40), (False, 60), (True, 80), (True, 100), (False, 120), (False, 140),
    ]  # fmt: skip
    # The first is for warming up. One that begins where another would be due begins with it.
    assert saved == [10, 20, 30, 80, 90, 100, 110]


def test_a_pair_has_the_stretch_with_saves_first_and_the_unfinished_one_is_left_out():
    turns, _ = played(steps=150)
    pairs = pairs_of(stretches_of(turns.marks))
    assert len(pairs) == 3
    assert all(with_saves.saving and not bare.saving for with_saves, bare in pairs)
    assert [(a.steps, b.steps) for a, b in pairs] == [(20, 20)] * 3


def test_a_bare_stretch_lasts_until_a_save_may_begin():
    """The save of the stretch before may still be on its way: the controller wants none until it is committed."""
    turns = Turns(saves=1, warm=0, clock=lambda: 0.0)
    wanted = {1, 11, 31, 32, 50}
    for step in range(1, 60):
        turns.due(step, partial(contains, wanted, step))
    assert [(mark.saving, mark.step) for mark in turns.marks] == [
        (True, 1), (False, 11), (False, 21), (True, 31), (True, 32), (False, 50),
    ]  # fmt: skip
