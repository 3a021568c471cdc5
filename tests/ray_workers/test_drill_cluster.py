"""A drill whose workers or whose board are gone says so in an error of ours, and names the rank that was at fault."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import TrainingFailedError as RayTrainingFailedError

from ray_workers import drill_cluster
from ray_workers.drill_cluster import restore_on_workers
from ray_workers.store.errors import TrainingFailedError


@pytest.fixture
def drill(monkeypatch):
    """Restores with what `fit` raises, and what the board answers."""

    def restored(fails: Exception | None, board: Any) -> Any:
        def fit() -> None:
            if fails is not None:
                raise fails

        def get(_: object) -> Any:
            if isinstance(board, Exception):
                raise board
            return board

        monkeypatch.setattr(drill_cluster, "ray_cluster", lambda *_: nullcontext())
        monkeypatch.setattr(drill_cluster, "_trainer", lambda *_: SimpleNamespace(fit=fit))
        monkeypatch.setattr(drill_cluster, "replace", lambda wanted, **_: wanted)
        actor = SimpleNamespace(read=SimpleNamespace(remote=lambda: None))
        monkeypatch.setattr(drill_cluster, "DrillBoard", SimpleNamespace(remote=lambda: actor))
        monkeypatch.setattr(drill_cluster.ray, "get", get)  # type: ignore[attr-defined]
        work: Any = SimpleNamespace(timeout_s=30.0)
        wanted: Any = SimpleNamespace(work=work, scaling=None, code_dir=None)
        return restore_on_workers(wanted)

    return restored


def ray_says(**causes: Exception) -> Any:
    error: Any = RayTrainingFailedError()
    error.worker_failures = {int(rank[1:]): cause for rank, cause in causes.items()}
    return error


@pytest.mark.parametrize("fails", [OutOfMemoryError("killed"), ActorDiedError()])
def test_a_controller_that_was_killed_is_a_failure_of_the_drill(drill, fails):
    with pytest.raises(TrainingFailedError, match="workers failed"):
        drill(fails, ({}, ()))


def test_the_rank_that_is_gone_is_named_and_not_one_that_fell_with_it(drill):
    fallen = RuntimeError("gloo: Connection closed by peer")
    with pytest.raises(TrainingFailedError, match="rank 1: ActorDiedError") as met:
        drill(ray_says(r0=fallen, r1=ActorDiedError()), ({}, ()))
    assert met.value.details["rank"] == 1


def test_a_rank_that_came_too_late_is_named_before_what_fell_with_it(drill):
    with pytest.raises(
        TrainingFailedError, match="Rank 2 did not come to the end of a step within 30 s"
    ):
        drill(ray_says(r0=ActorDiedError()), ({}, (2,)))


def test_a_board_that_is_gone_hides_no_failure_and_is_one(drill):
    with pytest.raises(TrainingFailedError, match="rank 0"):
        drill(ray_says(r0=ValueError("planted")), ActorDiedError())
    with pytest.raises(TrainingFailedError, match="noted is lost"):
        drill(None, ActorDiedError())
