"""A run of four workers goes on with two, then with three: the same global batches, and the loss within a stated bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.store.attempts import read_run
from ray_workers.store.opening import open_root
from ray_workers.store.versions import CheckResult
from ray_workers.validation import validate
from tests.support.group_attempt import GroupAttempt, train_in_group
from tests.support.rank_pool import RankPool

BOUND = 1e-5
"""Greatest relative difference of the loss at any step: only the order of float32 sums differs (docs/guarantees.md)."""
KILLS = {4: 11, 2: 9, 3: None}
"""Workers, and after how many steps of their attempt all of them die: in the middle of an epoch."""
STEPS = 32

pytestmark = pytest.mark.long

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "replicated": ("tests.support.replicated_loop", {"epochs": 4}),
    "sharded": (
        "ray_workers.loops.gpt",
        {
            "epochs": 4, "steps_per_epoch": 8, "global_batch": 12, "block": 32, "width": 36, "dropout": 0.0,
        },
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Story:
    whole: list[float]
    """Loss of every global batch, uninterrupted."""
    changed: dict[int, list[float]]
    """By number of workers, of every global batch of their attempt."""
    refused: list[tuple[list[float], str | None]]
    own_order: list[tuple[list[float], str | None]]
    judged: CheckResult | None
    """The newest sharded version, with its loss probe."""


def over_ranks(answers: list[tuple[list[float], str | None]]) -> list[float]:
    """The loss of each global batch: ranks hold parts of equal size, so their mean."""
    return [sum(losses) / len(losses) for losses in zip(*(a[0] for a in answers), strict=True)]


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Story]:
    """Every loop on three pools of processes, since starting them is what takes time."""
    folder = tmp_path_factory.mktemp("changed")
    staging = folder / "staging"
    staging.mkdir()
    url = open_root(str(folder / "store"), create=True).url
    attempts = {
        name: GroupAttempt(
            url=url, run=name, staging=str(staging), loop=loop, config=config, on_changed_workers="reshard",
        )
        for name, (loop, config) in LOOPS.items()
    }  # fmt: skip
    own = replace(attempts["replicated"], run="own", config={"epochs": 4, "own_order": True})
    found: dict[str, dict[str, Any]] = {name: {"changed": {}} for name in LOOPS}
    for world, stop in KILLS.items():
        pool = RankPool(_folder(folder, world), world)
        try:
            for name, attempt in attempts.items():
                if world == 4:
                    whole = replace(attempt, run=f"{name}-whole")
                    found[name]["whole"] = over_ranks(pool.run(train_in_group, whole))
                if world == 2:
                    refusing = replace(attempt, on_changed_workers="refuse")
                    found[name]["refused"] = pool.run(train_in_group, refusing)
                answers = pool.run(train_in_group, replace(attempt, stop_after=stop))
                found[name]["changed"][world] = over_ranks(answers)
            if world > 2:
                found["replicated"]["own_order"] = pool.run(
                    train_in_group, replace(own, stop_after=stop)
                )
        finally:
            pool.close()
    found["sharded"]["own_order"] = []
    states = {name: read_run(open_root(url, create=False).store, name) for name in LOOPS}
    assert {s.newest_first()[0].step for s in states.values()} == {STEPS}
    gpt = states["sharded"]
    policy = SoundnessPolicy(probe="ray_workers.loops.gpt:probe")
    store = open_root(url, create=False).store
    found["sharded"]["judged"] = validate(store, gpt.newest_first()[0], state=gpt, policy=policy)[
        -1
    ]
    found["replicated"]["judged"] = None
    return {name: Story(**values) for name, values in found.items()}


def _folder(parent: Path, world: int) -> Path:
    folder = parent / f"ranks-{world}"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_four_then_two_then_three_workers_take_the_same_global_batches(stories, loop):
    story = stories[loop]
    # The newest version before the kill holds an even number of steps.
    pieces = [(0, 11, 4), (10, 9, 2), (18, STEPS - 18, 3)]
    worst = 0.0
    for start, steps, world in pieces:
        losses = story.changed[world]
        assert len(losses) == steps
        for offset, loss in enumerate(losses):
            expected = story.whole[start + offset]
            worst = max(worst, abs(loss - expected) / expected)
    assert worst <= BOUND
    assert len(set(story.whole)) == STEPS, "every batch must differ, or the order shows nothing"


def test_the_probe_of_a_sharded_model_tells_the_same_loss_from_the_stored_bytes_in_one_process(
    stories,
):
    judged = stories["sharded"].judged
    assert judged.passed, judged.reason
    assert judged.evidence["probe_read"] == pytest.approx(judged.evidence["probe_saved"], rel=1e-5)


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_by_default_another_number_of_workers_is_refused_on_every_rank(stories, loop):
    assert len(stories[loop].refused) == 2
    for losses, message in stories[loop].refused:
        assert losses == []
        assert message is not None
        assert "saved by 4 workers and is to be restored by 2" in message
        assert "--on-changed-workers reshard" in message


def test_a_loader_that_counts_for_its_rank_alone_cannot_be_resharded_in_mid_epoch(stories):
    for losses, message in stories["replicated"].own_order:
        assert losses == []
        assert message is not None
        assert "ray_workers.sampling.GlobalBatches" in message
