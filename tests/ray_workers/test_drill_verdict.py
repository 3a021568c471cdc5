import json
import math

import pytest

from ray_workers.drill_notes import DrillNotes
from ray_workers.drill_verdict import Remembered, judge_drill

NOTES = {"steps": 1, "metrics": {"loss": 0.5}, "seconds": {}, "probes": (2.0, 2.0)}
STORE = {"finished": False, "probe": 2.0, "metric": "loss", "next_value": 0.5}


def judged(notes=(), store=()):
    return judge_drill(
        Remembered(**{**STORE, **dict(store)}), DrillNotes(**{**NOTES, **dict(notes)}), 1e-5
    )


def test_what_agrees_passes_and_says_what_was_compared():
    verdict = judged()
    assert (verdict.passed, verdict.reason, verdict.version_at_fault) == (True, None, False)
    assert verdict.evidence == {
        "steps": 1, "probe_saved": 2.0, "probe_read": 2.0, "value": 0.5, "value_recorded": 0.5, "metric": "loss",
        "bit_identical": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("notes", "store", "words", "at_fault"),
    [
        ({"steps": 0}, {}, "ended without a step", False),
        ({"probes": (2.1, 2.1)}, {}, "is not what was trained", True),
        ({"probes": (2.1, 2.1), "changes": ("torch 1 → 2",)}, {}, "torch 1 → 2", False),
        ({"probes": (2.1, 2.2)}, {}, "and then 2.2 on the same model", False),
        ({"probes": (2.0, 2.2)}, {}, "and then 2.2 on the same model", False),
        ({"probes": (math.nan, math.nan)}, {}, "nan", False),
        ({"metrics": {"loss": math.nan}}, {}, "loss of the step after the restore is nan", False),
        ({"metrics": {"loss": math.inf}}, {"next_value": None}, "is inf", False),
        ({"metrics": {"loss": 0.5001}}, {}, "did not come back, or the machine errs", False),
    ],
)  # fmt: skip
def test_what_fails_and_whose_fault_it_is(notes, store, words, at_fault):
    verdict = judged(notes, store)
    assert not verdict.passed
    assert words in str(verdict.reason)
    assert verdict.version_at_fault is at_fault
    json.dumps(verdict.evidence, allow_nan=False)


@pytest.mark.parametrize(
    ("notes", "store"),
    [
        ({"metrics": {"loss": 0.5000001}}, {}),
        ({"metrics": {"loss": 0.7}}, {"next_value": None}),
        ({"metrics": {"loss": 0.7}, "changes": ("threads 1 → 2",)}, {}),
        ({"metrics": {}}, {}),
        ({"probes": ()}, {}),
        ({"probes": (7.0, 7.0)}, {"probe": None}),
        ({"steps": 0, "metrics": {}}, {"finished": True}),
        ({"steps": 0, "metrics": {}, "through": True}, {}),
        ({"steps": 0, "metrics": {"loss": math.nan}}, {"finished": True}),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_not_held_against_the_version(notes, store):
    assert judged(notes, store).passed


def test_a_step_that_is_close_but_not_the_same_passes_and_is_called_so():
    assert judged({"metrics": {"loss": 0.5000001}}).evidence["bit_identical"] is False
    assert "bit_identical" not in judged(store={"next_value": None}).evidence
    assert judged({"changes": ("a 1 → 2", "b 3 → 4")}).evidence["changes"] == "a 1 → 2, b 3 → 4"
