"""One group of workers after another in one attempt: each under its own fence, from the newest version, as the log shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_workers import job_parts, resizing
from ray_workers.config import Saving, Scaling, Validation
from ray_workers.messages import DRAINING, RESIZE, TIME_LIMIT, PawlEvent
from ray_workers.policies.elastic import GroupEnd, WorkerRange
from ray_workers.policies.failure_words import Failure
from ray_workers.resizing import group_end, train_elastically
from ray_workers.store.attempts import create_run, end_attempt, start_attempt, start_incarnation
from ray_workers.store.errors import (
    AttemptInterruptedError,
    DamageError,
    FenceLostError,
    InvalidInputError,
    PawlError,
    RankHungError,
    TrainingFailedError,
)
from ray_workers.store.log import RunLog
from ray_workers.store.opening import StorageTarget
from ray_workers.training_job import TrainingJob

LOST = Failure(rank=1, error="ActorDiedError", said="its node has died", node="b").text("run")


def lost() -> TrainingFailedError:
    return TrainingFailedError(LOST, rank=1, node="b", error="ActorDiedError")


def resize() -> AttemptInterruptedError:
    return AttemptInterruptedError("resize (2 to 3 workers): Run 'run' …", cause=RESIZE, step=7)


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (resize(), GroupEnd(asked=True)),
        (AttemptInterruptedError("x", cause=RESIZE), GroupEnd()),
        (AttemptInterruptedError("x", cause=DRAINING), GroupEnd(asked=True)),
        (AttemptInterruptedError("x", cause=TIME_LIMIT), GroupEnd()),
        (AttemptInterruptedError("x", cause="SIGTERM"), GroupEnd()),
        (lost(), GroupEnd(lost=True)),
        (TrainingFailedError("Training of run 'run' failed: no worker group", no_workers=True), GroupEnd(lost=True)),
        (TrainingFailedError("Training of run 'run' failed: the controller died"), GroupEnd()),
        (TrainingFailedError(Failure(rank=0, error="ValueError", said="mine").text("run"), rank=0), GroupEnd()),
        (RankHungError("Run 'run': rank 1 took no step"), GroupEnd()),
        (InvalidInputError("A global batch of 8 …", unfit_workers=3), GroupEnd(unfit=True)),
        (InvalidInputError("A global batch of 8 …", unfit_workers=2), GroupEnd()),
        (InvalidInputError("The learning rate …"), GroupEnd()),
        (DamageError("bad bytes"), GroupEnd()),
        (FenceLostError("taken over"), GroupEnd()),
    ],
)  # fmt: skip
def test_what_ended_a_group_of_three(error, end):
    assert group_end(error, 3) == end


class Story:
    """A run whose groups end as a test says, with room for as many workers as it says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.target = StorageTarget(str(folder / "store"))
        self.log = create_run(self.target.open(create=True).store, "run", by={})
        self.fence = start_attempt(self.log, flow_run_id="flow", run_count=1)
        self.rooms: list[int] = []
        self.ends: list[Any] = []
        self.groups: list[tuple[int, int, int]] = []
        self.told: list[PawlEvent] = []
        monkeypatch.setattr(resizing, "wait_for_room", self._room)

    def train(self) -> None:
        job = TrainingJob(
            target=self.target, run="run", run_id=str(self.log.state.run_id), fence=self.fence, flow_run_id="flow",
            run_count=1, by={}, entrypoint="m:f", config={}, code_dir=Path(), resume=None,
            scaling=Scaling(workers=2, max_workers=4, on_changed_workers="reshard"), saving=Saving(),
            validation=Validation(),
        )  # fmt: skip
        train_elastically(job, self._group, self.told.append)

    def _room(self, worker: Any, limits: WorkerRange, **_: Any) -> int:
        assert worker == {"CPU": 1}
        workers = limits.fitting(self.rooms.pop(0))
        assert workers is not None
        return workers

    def _group(self, job: TrainingJob, limits: WorkerRange) -> None:
        assert job.scaling.max_workers is None
        assert (limits.least, limits.most) == (2, 4)
        self.groups.append((job.scaling.workers, job.fence, job.incarnation))
        end = self.ends.pop(0)
        if callable(end):
            end = end(job)
        if end is not None:
            raise end

    @property
    def attempts(self) -> list[tuple[int, str | None]]:
        state = RunLog(self.target.open().store, "run", by={}, patience_s=1).state
        return [(a.incarnation, a.outcome) for a in state.attempts.values()]


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Story:
    return Story(tmp_path, monkeypatch)


def test_groups_follow_each_other_under_fences_of_their_own(story):
    story.rooms, story.ends = [2, 3, 2], [resize(), lost(), None]
    story.train()
    assert [workers for workers, _, _ in story.groups] == [2, 3, 2]
    assert [incarnation for _, _, incarnation in story.groups] == [0, 1, 2]
    assert len({fence for _, fence, _ in story.groups}) == 3
    assert story.attempts == [(0, "interrupted"), (1, "failed"), (2, None)]
    resized = [e.details for e in story.told if e.kind == "resized"]
    assert [(d["before"], d["workers"]) for d in resized] == [(2, 3), (3, 2)]


def test_a_number_that_the_loop_refuses_is_left_out_from_then_on(story):
    story.rooms = [3, 3, 3]
    story.ends = [InvalidInputError("no", unfit_workers=3), resize(), None]
    story.train()
    assert [workers for workers, _, _ in story.groups] == [3, 2, 2]


@pytest.mark.parametrize(
    "error", [RankHungError("hung"), InvalidInputError("lr"), FenceLostError("gone")]
)
def test_what_the_flow_must_decide_on_goes_up_and_leaves_the_fence_to_it(story, error):
    story.rooms, story.ends = [2], [error]
    with pytest.raises(type(error)):
        story.train()
    assert story.attempts == [(0, None)]


def test_a_machine_that_loses_its_workers_again_and_again_is_given_up(story):
    story.rooms, story.ends = [2] * 9, [lost() for _ in range(9)]
    with pytest.raises(PawlError, match="its node has died"):
        story.train()
    assert len(story.groups) == 3


def test_the_end_is_recorded_for_the_fence_that_a_restarted_actor_took(story):
    def restarted(_: TrainingJob) -> PawlError:
        start_incarnation(story.log, story.fence, 1)
        return resize()

    story.rooms, story.ends = [2, 3], [restarted, None]
    story.train()
    assert story.attempts == [(0, None), (1, "interrupted"), (2, None)]
    assert story.groups[1][2] == 2


@pytest.mark.parametrize("when", ["before the end is recorded", "while there is no room"])
def test_a_run_that_was_taken_over_is_not_taken_back(story, when, monkeypatch):
    def taken(_: Any = None) -> PawlError:
        start_attempt(story.log, flow_run_id="other", run_count=1)
        return resize()

    story.rooms = [2, 3]
    if when == "before the end is recorded":
        story.ends = [taken]
    else:
        story.ends = [resize()]
        room = story._room

        def slow(*args: Any, **more: Any) -> int:
            if story.groups:
                taken()
            return int(room(*args, **more))

        monkeypatch.setattr(resizing, "wait_for_room", slow)
    with pytest.raises(FenceLostError, match="flow run other"):
        story.train()
    assert len(story.groups) == 1


def test_an_end_by_somebody_else_while_there_is_no_room_does_not_confuse(story):
    def closed(_: TrainingJob) -> PawlError:
        log = RunLog(story.target.open().store, "run", by={}, patience_s=1)
        end_attempt(log, story.fence, "interrupted", "by hand")
        return resize()

    story.rooms, story.ends = [2, 3], [closed]
    with pytest.raises(FenceLostError, match="ended as interrupted"):
        story.train()


@pytest.mark.parametrize(("required", "grows"), [("sound", True), ("restorable", False)])
def test_a_range_does_not_grow_when_a_resume_point_needs_a_drill(tmp_path, required, grows):
    """What is saved for more workers has had no drill: they would begin far behind it, or not at all."""
    job = TrainingJob(
        target=StorageTarget(str(tmp_path)), run="run", run_id="0" * 32, fence=1, flow_run_id="flow", run_count=1, by={},
        entrypoint="m:f", config={}, code_dir=Path(), resume=None, scaling=Scaling(workers=2, max_workers=4, on_changed_workers="reshard"),
        saving=Saving(), validation=Validation(required=required),
    )  # fmt: skip
    assert (job_parts.growth_of(job, WorkerRange(least=2, most=4)) is not None) is grows
