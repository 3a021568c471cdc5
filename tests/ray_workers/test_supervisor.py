"""The thread beside `fit()` goes on whatever befalls one of its duties: without it no attempt ends in order."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import TrainingFailedError as RayTrainingFailedError

from ray_workers import trainer
from ray_workers.fitting import Fitting
from ray_workers.messages import DRAINING, RESIZE, TIME_LIMIT, PawlEvent, StopRequest
from ray_workers.node_agent import AgentConfig
from ray_workers.policies.failure_rate import PRIOR
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.resizing import group_end
from ray_workers.staging_files import StagingFolder
from ray_workers.store.errors import AttemptInterruptedError, PawlError, StoreUnavailableError
from ray_workers.store.opening import StorageTarget
from ray_workers.supervisor import Supervision, Supervisor
from ray_workers.version_assembly import AttemptIdentity
from tests.support.factories import MadeUpRun

DUTIES = (
    ("_drain", None),
    ("_watch_agents", None),
    ("_watch_for_interruptions", None),
    ("_watch_for_hung_ranks", None),
    ("collect", "_log_lines"),
    ("check_fence", "_coordinating"),
    ("drive", "_validation"),
)


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """A supervisor whose duties only note that they were done; the errors that a test plants come out of them."""
    target = StorageTarget(str(tmp_path / "store"))
    run = MadeUpRun(store=target.open(create=True).store, name="run")
    fence = run.start()
    run_id = str(run.log.state.run_id)
    told: list[PawlEvent] = []
    staging = StagingFolder(folder=Path(tmp_path), run_id=run_id, fence=fence)
    supervisor = Supervisor(
        Supervision(
            target=target,
            attempt=AttemptIdentity(
                run="run", run_id=run_id, fence=fence, parent=None, config={}, by={}
            ),
            failure_budget=3,
            agent=AgentConfig(target=target, run="run", staging=staging, upload_tries=1),
            policy=SoundnessPolicy(),
            validation_timeout_s=1.0,
            hot_restore=False,
            on_event=told.append,
        )
    )
    done: list[str] = []
    errors: dict[str, Exception] = {}

    def duty(name: str):
        def perform(*_: object) -> None:
            done.append(name)
            if name in errors:
                raise errors[name]

        perform.__qualname__ = name
        return perform

    for name, owner in DUTIES:
        at = supervisor if owner is None else getattr(supervisor, owner)
        monkeypatch.setattr(at, name, duty(name))
    return supervisor, done, errors, told


@pytest.mark.parametrize("failing", [name for name, _ in DUTIES])
def test_a_duty_that_fails_keeps_no_other_from_its_turn(scene, failing):
    supervisor, done, errors, told = scene
    errors[failing] = OutOfMemoryError("Ray killed the validator")
    supervisor._look_around()
    assert done == [name for name, _ in DUTIES]
    (event,) = told
    assert event.kind == "supervisor"
    assert "goes on: OutOfMemoryError: Ray killed the validator" in event.message


@pytest.mark.parametrize("number", range(len(DUTIES) - 1))
def test_what_is_left_during_a_duty_begins_none_of_the_others(scene, monkeypatch, number):
    """The store may be waited for until Ray was left; the next duty's call would start a new Ray."""
    supervisor, done, *_ = scene
    name, owner = DUTIES[number]
    at = supervisor if owner is None else getattr(supervisor, owner)
    monkeypatch.setattr(at, name, lambda *_: supervisor._done.set())
    supervisor._look_around()
    assert done == [before for before, _ in DUTIES[:number]]


def test_after_the_block_was_left_what_is_still_owed_is_done(scene, monkeypatch):
    supervisor, done, *_ = scene
    finished: list[str] = []
    for owner, name in (
        ("_log_lines", "finish"), ("_coordinating", "kill"), ("_agents", "let_go"),
    ):  # fmt: skip
        at = getattr(supervisor, owner)
        monkeypatch.setattr(at, name, lambda *_, name=name, **__: finished.append(name))
    late = supervisor._coordinating, supervisor._hang_watch
    assert not any(one._over() for one in late)
    supervisor.__exit__(None, None, None)
    assert done == ["_drain"]
    assert finished == ["finish", "kill", "let_go"]
    assert all(one._over() for one in late), (
        "what waits for a store or an agent goes on in a new Ray"
    )


def test_a_problem_that_stays_is_told_once_a_minute_and_not_twice_a_second(scene, monkeypatch):
    supervisor, _, errors, told = scene
    now = [100.0]
    monkeypatch.setattr("ray_workers.supervisor.time.monotonic", lambda: now[0])
    errors["drive"] = RuntimeError("one")
    errors["check_fence"] = StoreUnavailableError("two")
    for _ in range(100):
        supervisor._look_around()
        now[0] += 0.5
    assert [event.message.rpartition(": ")[2] for event in told] == ["two", "one"]
    now[0] += 20
    supervisor._look_around()
    assert len(told) == 4


def asks(cause, grace_s=60.0):
    return StopRequest(reason="interrupted", cause=cause, grace_s=grace_s, place="3 to 4 workers")


def ray_says(*causes):
    error: Any = RayTrainingFailedError()
    error.worker_failures = dict(enumerate(causes))

    def fit():
        raise error

    return Fitting(fit)


def ended(supervisor, monkeypatch, *causes):
    """What a group's end is taken for, and what its supervisor took the time for."""
    took = []
    for name in ("settle", "finish_validation"):
        monkeypatch.setattr(supervisor, name, lambda _, name=name: took.append(name))
    job: Any = SimpleNamespace(run="run", fence=1)
    with pytest.raises(PawlError) as raised:
        trainer._fit(job, ray_says(*causes), supervisor)
    return raised.value, took


def test_a_worker_that_is_lost_is_not_taken_for_one_that_made_room(scene, monkeypatch):
    """As they fall, workers free their places, which looks like room for a larger group."""
    supervisor, *_ = scene
    supervisor.interrupt(asks(RESIZE))
    gone = RuntimeError("gloo: Connection closed by peer"), RayActorError()
    error, took = ended(supervisor, monkeypatch, *gone)
    assert group_end(error, 3).lost
    assert (error.details["rank"], error.details["error"]) == (1, "RayActorError")
    assert "settle" in took
    assert supervisor.interruption is None
    supervisor.interrupt(asks(RESIZE))
    assert supervisor.interruption is None
    supervisor.interrupt(asks("SIGTERM"))
    assert getattr(supervisor.interruption, "cause", None) == "SIGTERM"


def test_workers_that_ended_to_make_room_are_taken_at_their_word(scene, monkeypatch):
    supervisor, *_ = scene
    supervisor.interrupt(asks(RESIZE))
    saved = AttemptInterruptedError("saved", cause=RESIZE, step=7)
    error, took = ended(supervisor, monkeypatch, saved, RayActorError())
    assert group_end(error, 3).asked
    assert not took


@pytest.mark.parametrize("cause", ["SIGTERM", DRAINING, TIME_LIMIT])
def test_who_must_end_ends_for_that_whatever_befalls_the_workers(scene, monkeypatch, cause):
    supervisor, *_ = scene
    supervisor.interrupt(asks(cause))
    error, _ = ended(supervisor, monkeypatch, RayActorError())
    assert isinstance(error, AttemptInterruptedError)
    assert error.details["cause"] == cause


@pytest.mark.parametrize(
    ("standing", "new", "taken"),
    [
        (asks(DRAINING, 600.0), asks("SIGTERM", 18.0), True),
        (asks(TIME_LIMIT, 600.0), asks("Ctrl-C", 6.0), True),
        (asks(DRAINING, 5.0), asks("SIGTERM", 18.0), False),
        (asks(RESIZE, 5.0), asks("SIGTERM", 18.0), True),
        (asks(DRAINING, 7200.0), asks(RESIZE, 3600.0), False),
    ],
)
def test_the_request_that_leaves_less_time_stands(scene, monkeypatch, standing, new, taken):
    """Whoever cancels kills after 30 seconds, whatever a node's deadline is; a version that would come later is lost."""
    supervisor, *_ = scene
    supervisor.interrupt(standing)
    told_at_once: list[Any] = []
    monkeypatch.setattr(supervisor._agents, "attach", told_at_once.append)
    supervisor.interrupt(new)
    stands = new if taken else standing
    assert supervisor.interruption.cause == stands.cause
    assert supervisor.interruption.grace_s <= stands.grace_s
    assert [said.stop.cause for said in told_at_once] == ([new.cause] if taken else [])


def test_what_is_left_of_the_standing_request_is_compared(scene, monkeypatch):
    supervisor, *_ = scene
    now = [100.0]
    monkeypatch.setattr("ray_workers.supervisor.time.monotonic", lambda: now[0])
    supervisor.interrupt(asks(DRAINING, 60.0))
    now[0] += 50.0
    supervisor.interrupt(asks("SIGTERM", 18.0))
    assert supervisor.interruption == asks(DRAINING, 10.0)
    supervisor.interrupt(asks("Ctrl-C", 6.0))
    assert supervisor.interruption == asks("Ctrl-C", 6.0)
    assert supervisor.seconds_since_interruption == 0.0


def test_a_request_that_takes_over_is_told_too(scene, monkeypatch):
    supervisor, _, _, told = scene
    requests = [asks(DRAINING, 600.0), asks("SIGTERM", 18.0)]

    def next_one() -> None:
        if requests:
            supervisor.interrupt(requests.pop(0))
        else:
            supervisor._done.set()

    monkeypatch.setattr(supervisor, "_look_around", next_one)
    supervisor._run()
    assert [(e.details["cause"], round(e.details["grace_s"])) for e in told] == [
        (DRAINING, 600), ("SIGTERM", 18),
    ]  # fmt: skip


def test_the_thread_outlives_whatever_people_s_code_raises(scene, monkeypatch):
    supervisor, done, errors, _ = scene
    errors.update(drive=OutOfMemoryError("killed"), _drain=ValueError("odd"))

    def broken(_: object) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr(supervisor, "_task", type("Task", (), {"on_event": broken}))
    thread = threading.Thread(target=supervisor._run, daemon=True)
    thread.start()
    for _ in range(600):
        supervisor._wake.set()
        if done.count("drive") >= 3:
            break
        threading.Event().wait(0.05)
    assert thread.is_alive()
    supervisor._done.set()
    supervisor._wake.set()
    thread.join(60)
    assert done.count("drive") >= 3


@pytest.mark.parametrize("replaced", [True, False])
def test_what_a_dead_checkpoint_actor_told_nobody_of_is_judged_too(scene, monkeypatch, replaced):
    """It commits and dies: the version is there, and the word of it went with the process."""
    supervisor, *_ = scene
    supervisor._validation._fulfilled = supervisor._validation._wishes
    coordinating = supervisor._coordinating

    def drain(_: float) -> tuple[PawlEvent, ...]:
        if replaced:
            coordinating.attempt = replace(coordinating.attempt, fence=supervisor.fence + 1)
        return ()

    monkeypatch.setattr(coordinating, "drain", drain)
    Supervisor._drain(supervisor, 1.0)
    assert supervisor._validation.over is not replaced


def test_that_versions_wait_for_a_verdict_is_told_to_every_node(scene, monkeypatch):
    """Steps beside a validation are no measure of undisturbed ones (`interval_controller`)."""
    supervisor, *_ = scene
    told: list[Any] = []
    monkeypatch.setattr(supervisor._agents, "attach", told.append)
    supervisor._validation.want()
    supervisor._attach()
    supervisor._validation._fulfilled = supervisor._validation._wishes
    supervisor._attach()
    assert [said.validating for said in told] == [True, False]


def test_how_often_training_fails_by_now_is_told_to_every_node(scene, monkeypatch):
    supervisor, *_ = scene
    told: list[Any] = []
    monkeypatch.setattr(supervisor._agents, "attach", told.append)
    object.__setattr__(supervisor._task, "rate", lambda: PRIOR)
    supervisor._attach()
    assert told[0].rate == PRIOR
