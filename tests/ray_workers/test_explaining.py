from __future__ import annotations

from dataclasses import replace

import pytest

from ray_workers.explaining import ENDINGS, PHASES, interruptions
from ray_workers.policies.failure_words import Failure
from ray_workers.report import AttemptRow
from tests.support.interruptions import STARTUP, at, attempt, report, version

FELL = Failure(rank=1, error="KeyError", said="'lr'", node="node-3", noticed_s=4, settled_s=6)
GONE = "The actor died unexpectedly before finishing this task. The actor died because its {} has died."


def failed(**values) -> str:
    return Failure(**{"rank": 1, "error": "KeyError", "said": "'lr'", **values}).text("run")


def test_an_exception_is_taken_apart_by_phase():
    first = attempt(1, 0, ended_at=at(130), outcome="failed", reason=FELL.text("run"))
    second = attempt(2, 140, resumed_from="1", resumed_at=at(145), steps_lost=20)
    own = [version(2, 2, 200, 200, startup=STARTUP), version(3, 2, 300, 300, startup=STARTUP)]
    (found,) = interruptions(report([first, second], [version(1, 1, 100, 100), *own]))
    assert (found.what, found.detail, found.host) == ("exception", first.reason, "node-1")
    assert (found.rank, found.node) == (1, "node-3")
    assert (found.resumed, found.step, found.steps_lost) == ("1", 100, 20)
    assert found.seconds == {
        "in vain": 20, "detect": 4, "settle": 6, "schedule": 10, "choose": 5, "verify": 1, "start": 2, "restore": 3, "warm up": 0.5, "redo": 20,
    }  # fmt: skip
    assert list(found.seconds) == [phase for phase in PHASES if phase in found.seconds]
    assert found.total == pytest.approx(71.5)
    assert found.to_json()["seconds"]["redo"] == 20


def test_a_crash_leaves_no_end_and_what_is_not_known_is_left_out():
    first = attempt(1, 0, outcome="lost", reason="its end was not recorded")
    second = attempt(2, 140, resumed_from="1", resumed_at=at(145))
    (found,) = interruptions(report([first, second], [version(1, 1, 100, 100)]))
    assert found.what == "crash"
    assert found.seconds == {"in vain": 0, "unnoticed": 40, "choose": 5}


@pytest.mark.parametrize(
    ("outcome", "reason", "what"),
    [
        ("completed", None, "completed"),
        ("failed", "ValueError", "exception"),
        ("failed", failed(), "exception"),
        ("failed", failed(said="preempted"), "exception"),
        ("failed", "Shard k is damaged. (rank 1, node h)", "exception"),
        (
            "failed",
            failed(error="ActorDiedError", said=GONE.format("worker process")),
            "worker lost",
        ),
        (
            "failed",
            failed(error="RuntimeError", said="[gloo] Connection closed by peer"),
            "worker lost",
        ),
        ("failed", failed(error="DistBackendError", said="NCCL"), "worker lost"),
        ("failed", failed(error="ActorDiedError", said=GONE.format("node")), "node lost"),
        (
            "failed",
            failed(error="ActorDiedError", said=GONE.format("node"), preempted=True),
            "preempted",
        ),
        ("failed", "Training of run 'run' failed: The controller died.", "cluster lost"),
        (
            "failed",
            "Run 'r' stops at step 9: more saves in a row failed than the failure budget allows.",
            "saves failed",
        ),
        ("interrupted", "TerminationSignal", "cancelled"),
        ("interrupted", "cancelled", "cancelled"),
        ("interrupted", "Ctrl-C", "Ctrl-C"),
        ("interrupted", "SIGTERM (TerminationSignal)", "SIGTERM"),
        ("interrupted", "ended by Prefect (CancelledError)", "ended by Prefect"),
        ("interrupted", "time limit: Run 'r' was interrupted at step 3", "time limit"),
        ("interrupted", "node draining: Run 'r' was interrupted", "preempted"),
        ("interrupted", "node draining (node h, rank 1): Run 'r' was interrupted", "preempted"),
        ("interrupted", "resize (2 to 3 workers): Run 'r' was interrupted", "resized"),
        ("interrupted", "cancelled: the Ray job was stopped", "cancelled"),
        ("interrupted", "preempted: node-3 goes in 30 s", "preempted"),
        ("lost", None, "crash"),
    ],
)
def test_what_ended_it(outcome, reason, what):
    rows = [attempt(1, 0, outcome=outcome, reason=reason, ended_at=at(5)), attempt(2, 10)]
    found = interruptions(report(rows, []))[0]
    assert found.what == what
    assert found.what in ENDINGS


@pytest.mark.parametrize(
    ("outcome", "reason", "place"),
    [
        ("failed", failed(node="node-3"), (1, "node-3")),
        ("failed", failed(), (1, None)),
        ("failed", "Shard k is damaged. (rank 2, node h)", (2, "h")),
        ("interrupted", "node draining (node node-3, ranks 0 and 1): Run 'r'", (None, "node-3")),
        ("interrupted", "Ctrl-C", (None, None)),
        ("lost", None, (None, None)),
    ],
)
def test_where_it_fell(outcome, reason, place):
    rows = [attempt(1, 0, outcome=outcome, reason=reason, ended_at=at(5)), attempt(2, 10)]
    found = interruptions(report(rows, []))[0]
    assert (found.rank, found.node) == place
    assert (found.to_json()["rank"], found.to_json()["node"]) == place


@pytest.mark.parametrize(
    ("values", "versions", "why"),
    [
        ({"resumed_from": "1", "required": "verified"}, [version(1, 1, 5, 4)], "the newest at rung verified or above"),
        ({"resumed_from": "1"}, [version(1, 1, 5, 4)], "the newest at the required rung or above"),
        ({"resumed_from": "other@1"}, [], "the origin of the fork"),
        ({}, [version(1, 1, 5, 4)], "no version could be resumed"),
        ({}, [], "there was no version yet"),
        ({"resumed_at": None}, [], "nothing was chosen before it ended"),
    ],
)  # fmt: skip
def test_why_that_one(values, versions, why):
    second = attempt(2, 10, **{"resumed_at": at(11), **values})
    found = interruptions(report([attempt(1, 0, ended_at=at(5)), second], versions))[0]
    assert found.why.startswith(why)
    assert found.to_json()["why"] == found.why


def test_a_pause_after_a_finished_attempt_costs_nothing():
    rows = [attempt(1, 0, outcome="completed", ended_at=at(5)), attempt(2, 500)]
    assert "schedule" not in interruptions(report(rows, []))[0].seconds


def test_another_incarnation_of_one_attempt_is_its_actor_started_again():
    first = AttemptRow(
        number=1, fence=1, incarnation=0, flow_run_id="f", run_count=1, started_at=at(0), outcome="lost", host="h",
    )  # fmt: skip
    second = AttemptRow(
        number=2, fence=5, incarnation=1, flow_run_id="f", run_count=1, started_at=at(9), host="h"
    )
    assert interruptions(report([first, second], []))[0].what == "actor restarted"


def test_while_an_actor_was_started_again_training_went_on():
    first = attempt(1, 0, outcome="lost", resumed_at=at(1))
    second = replace(
        attempt(2, 140, restarted=True, resumed_from="1", resumed_at=at(140), steps_lost=0), flow_run_id="adopter"
    )  # fmt: skip
    own = version(2, 2, 200, 200, startup=STARTUP)
    (found,) = interruptions(report([first, second], [version(1, 1, 100, 100), own]))
    assert (found.what, found.resumed, found.step, found.steps_lost) == (
        "actor restarted",
        "1",
        100,
        0,
    )
    assert (found.seconds, found.total) == ({}, 0)
    assert found.why == "training went on while the checkpoint actor was started again"


def test_times_that_cannot_be_read_are_unknown():
    rows = [
        attempt(1, 0, outcome="failed", ended_at="once"),
        AttemptRow(number=2, fence=2, incarnation=0, flow_run_id="f", run_count=2, started_at="x", host="h"),
    ]  # fmt: skip
    assert interruptions(report(rows, []))[0].seconds == {}
