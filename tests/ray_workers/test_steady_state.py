"""In the steady state of two real ranks: nothing is planned again, and nobody waits for anybody but rank 0's word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.counted_collectives import Counts, count_in_group
from tests.support.group_attempt import GroupAttempt
from tests.support.rank_pool import RankPool

LOOPS = {
    "replicated": ("tests.support.replicated_loop", 8),
    "sharded": ("ray_workers.loops.gpt", 4),
}
EPOCHS = 5


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    pool = RankPool(tmp_path_factory.mktemp("ranks"))
    yield pool
    pool.close()


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_saves_are_planned_once_and_agreed_by_one_broadcast_of_rank_0(
    ranks: RankPool, loop: str, tmp_path: Path
) -> None:
    module, steps = LOOPS[loop]
    config = {
        "epochs": EPOCHS, "steps_per_epoch": steps, "global_batch": 12, "block": 32, "width": 36, "dropout": 0.0,
    }  # fmt: skip
    (tmp_path / "staging").mkdir()
    attempt = GroupAttempt(
        url=str(tmp_path / "store"), run="run", staging=str(tmp_path / "staging"), loop=module, every_steps=1,
        config=config if loop == "sharded" else {"epochs": EPOCHS},
    )  # fmt: skip
    counted: list[Counts] = ranks.run(count_in_group, attempt)
    done = EPOCHS * steps
    for counts in counted:
        assert counts.pop("save") >= done - 1
        assert counts.pop("plan") == 1
        # One agreement a step at most, and one more when all is done: no gather, no barrier, no reduction.
        assert set(counts) == {"broadcast"}
        assert counts["broadcast"] <= done + 2
