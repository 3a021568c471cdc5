"""Each guard of the protocol is taken away, and the sweep turns red: what it does not notice it has not shown."""

from __future__ import annotations

import pytest

from tests.support.simulation.controls import CONTROLS, turns_red

pytestmark = [pytest.mark.fault, pytest.mark.long]


@pytest.mark.parametrize("control", CONTROLS, ids=[c.guard.replace(" ", "-") for c in CONTROLS])
def test_the_sweep_turns_red_without_the_guard(control):
    red = turns_red(control)
    assert red is not None, f"{control.guard}: nothing went wrong"
    named = f"[{', '.join(control.sequence)}] " if control.sequence else f"seed {red.seed}: "
    assert red.message.startswith(named)
    assert turns_red(control, [red.seed]) is not None, "what is named does not replay it"
