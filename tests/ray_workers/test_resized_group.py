"""Two real ranks are asked to make room for three, and those die: nothing is lost the first time, and no batch changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ray_workers.store.attempts import read_run
from ray_workers.store.opening import open_root
from tests.support.group_attempt import GroupAttempt, train_in_group
from tests.support.rank_pool import RankPool

pytestmark = pytest.mark.long

BOUND = 1e-5
"""As in test_changed_workers: only the order of float32 sums differs (docs/guarantees.md)."""
STEPS, EVERY_STEPS = 32, 7


def over_ranks(answers: list[tuple[list[float], str | None]]) -> list[float]:
    """The loss of each global batch: ranks hold parts of equal size, so their mean."""
    return [sum(losses) / len(losses) for losses in zip(*(a[0] for a in answers), strict=True)]


def pool(parent: Path, workers: int) -> RankPool:
    folder = parent / f"ranks-{workers}"
    folder.mkdir()
    return RankPool(folder, workers)


def test_two_become_three_and_two_again(tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    url = open_root(str(tmp_path / "store"), create=True).url
    attempt = GroupAttempt(
        url=url, run="run", staging=str(staging), loop="tests.support.replicated_loop", config={"epochs": 4},
        every_steps=EVERY_STEPS, on_changed_workers="reshard",
    )  # fmt: skip

    def newest() -> int:
        return read_run(open_root(url, create=False).store, "run").newest_first()[0].step

    two, three = (pool(tmp_path, workers) for workers in (2, 3))
    try:
        whole = over_ranks(two.run(train_in_group, replace(attempt, run="whole")))
        asked = two.run(train_in_group, replace(attempt, resized_after=3))
        first = over_ranks(asked)
        saved = newest()
        died = three.run(train_in_group, replace(attempt, stop_after=10))
        second = over_ranks(died)
        kept = newest()
        third = over_ranks(two.run(train_in_group, attempt))
    finally:
        two.close()
        three.close()

    # Asked for: the step at which all ranks ended is a version, and the next group's first step follows it.
    assert 3 <= len(first) < STEPS
    assert saved == len(first)
    assert {message for _, message in asked} == {
        f"Run 'run' was interrupted at step {saved}; step {saved} is kept. A retry resumes from its newest version."
    }
    # Died: what came after the newest version is done again.
    assert kept > saved
    assert len(second) == 10
    assert saved + 10 - kept <= EVERY_STEPS
    assert len(third) == STEPS - kept
    for start, losses in ((0, first), (saved, second), (kept, third)):
        assert losses == pytest.approx(whole[start : start + len(losses)], rel=BOUND)
    assert len(set(whole)) == STEPS, "every batch must differ, or the order shows nothing"
