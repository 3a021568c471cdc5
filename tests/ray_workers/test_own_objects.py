"""What each rank has alone beside its random state comes back to that rank, and not as rank 0 had it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ray_workers.own_objects import capture_own, local_buffers, restore_own
from ray_workers.resharding import reshard
from ray_workers.session import CheckpointSession
from ray_workers.store.errors import InvalidInputError, StateMismatchError
from ray_workers.store.opening import open_root
from tests.ray_workers.test_resharding import state
from tests.ray_workers.test_session import one_process
from tests.support.group_attempt import GroupAttempt, train_in_group
from tests.support.rank_pool import RankPool
from tests.support.uneven_loop import Seen

STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    made = RankPool(tmp_path_factory.mktemp("ranks"), 2)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_both_ranks_go_on_with_their_own_statistics_and_objects(
    pool: RankPool, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "staging").mkdir()
    whole = GroupAttempt(
        url=open_root(str(tmp_path / "store"), create=True).url,
        run="whole",
        staging=str(tmp_path / "staging"),
        loop="tests.support.uneven_loop",
        config={"sharded": kind == "sharded"},
    )
    expected = [losses for losses, _ in pool.run(train_in_group, whole)]
    assert expected[0] != expected[1]
    again = replace(whole, run="again")
    pool.run(train_in_group, replace(again, stop_after=5))
    for rank, (losses, error) in enumerate(pool.run(train_in_group, again)):
        assert error is None
        assert losses == expected[rank][4:]


def test_buffers_that_are_kept_alike_or_not_stored_are_not_kept_by_rank() -> None:
    plain = nn.BatchNorm1d(2)
    plain.register_buffer("passing", torch.zeros(1), persistent=False)
    assert set(local_buffers(plain, plain.state_dict())) == STATISTICS
    assert set(local_buffers(plain, ["weight", "running_mean"])) == {"running_mean"}
    assert not capture_own(plain, plain.state_dict(), {}, rank=0)
    for broadcast, found in ((True, set()), (False, STATISTICS)):
        wrapped = without_group(nn.BatchNorm1d(2), broadcast=broadcast)
        names = capture_own(wrapped, STATISTICS, {}, rank=1).get("buffers", {})
        assert set(names) == found


def without_group(module: nn.Module, *, broadcast: bool) -> nn.Module:
    """DDP as such, without the process group that its constructor asks for."""
    ddp: Any = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(ddp)
    ddp.module, ddp.broadcast_buffers = module, broadcast
    return cast("nn.Module", ddp)


def test_a_version_without_the_ranks_own_buffers_leaves_those_of_rank_0() -> None:
    model = nn.BatchNorm1d(2)
    model.running_mean = torch.ones(2)
    restore_own(model, {}, {"rng": None, "data": None})
    assert torch.equal(model.running_mean, torch.ones(2))


def test_a_buffer_of_another_shape_is_refused() -> None:
    with pytest.raises(StateMismatchError, match="running_mean of this rank"):
        restore_own(nn.BatchNorm1d(2), {}, {"buffers": {"running_mean": torch.zeros(1)}})


def test_own_objects_under_other_names_are_refused_and_none_is_changed() -> None:
    seen = Seen()
    tree = {"own": {"seen": {"total": torch.ones(2)}}}
    for objects in ({}, {"other": seen}, {"seen": seen, "other": seen}):
        with pytest.raises(StateMismatchError, match="own state does not fit: seen stored"):
            restore_own(None, objects, tree)
    with pytest.raises(StateMismatchError, match="nothing stored, seen here"):
        restore_own(None, {"seen": seen}, {})
    assert not seen.total.any()


def test_another_number_of_ranks_takes_objects_by_rank_and_buffers_from_rank_0() -> None:
    own = {**state(), "own": {"seen": 1}, "buffers": {"running_mean": torch.ones(2)}}
    moved = reshard(state(), own, rank=1, world_size=3)
    assert moved["own"] == {"seen": 1}
    assert "buffers" not in moved
    assert "own" not in reshard(state(), state(), rank=1, world_size=3)


def test_own_objects_that_cannot_come_back_are_refused_when_the_session_opens(
    tmp_path: Path,
) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": nn.Linear(1, 1), "own": {"seen": object()}}, "own 'seen' is a object"),
        ({"own": {"seen": Seen()}}, "without a model"),
        (
            {"model": nn.Linear(1, 1), "own": {"seen": unstorable()}},
            r"rank/0/own/seen is of type builtins\.object",
        ),
    ]

    def loop(config: dict[str, Any]) -> None:
        CheckpointSession.open(**cases[config["case"]][0])

    for number, (_, reason) in enumerate(cases):
        with pytest.raises(InvalidInputError, match=reason):
            one_process(tmp_path, f"run-{number}").attempt(loop, {"case": number})


def unstorable() -> Any:
    return SimpleNamespace(state_dict=object, load_state_dict=None)
