from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ray_workers.messages import PawlEvent
from tasks.attempt import Attempt
from tasks.progress import ProgressBar


@pytest.fixture
def shown(monkeypatch):
    """What the artifact showed, in order."""
    found: list[tuple[float, str]] = []
    monkeypatch.setattr(ProgressBar, "_write", lambda _, share, text: found.append((share, text)))
    return found


@pytest.fixture
def bar(shown):
    return ProgressBar(cast("Attempt", SimpleNamespace(request=SimpleNamespace(run="digits"))))


def event(kind: str, **details: Any) -> PawlEvent:
    return PawlEvent(kind=kind, message="", at="", details=details)


def test_it_says_step_epoch_loss_and_the_last_sound_version(bar, shown):
    bar.show(event("committed", number=1, step=5, epoch=1, epochs_wanted=4, metrics={"loss": 0.25}))
    bar.show(event("verdict", number=1, rung="sound", reason=None))
    bar.show(event("verdict", number=1, rung="quarantined", reason="NaN"))
    said = "Version 1 committed: step 5, epoch 1 of 4, loss 0.25; "
    assert shown == [
        (25.0, said + "none of this attempt's versions is validated yet"),
        (25.0, said + "version 1 is sound"),
        (25.0, said + "version 1 is sound"),
    ]


def test_a_verdict_before_the_first_commit_shows_nothing(bar, shown):
    bar.show(event("verdict", number=9, rung="sound", reason=None))
    assert shown == []


def test_without_a_wanted_number_of_epochs_or_a_loss_it_says_what_it_knows(bar, shown):
    bar.show(event("committed", number=2, step=7, epoch=1, epochs_wanted=None, metrics={}))
    assert shown[0][0] == 0.0
    assert shown[0][1].startswith("Version 2 committed: step 7, epoch 1 of ?; ")
