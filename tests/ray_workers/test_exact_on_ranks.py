"""Two real ranks, replicated and sharded, interrupted in the middle of epochs: every loss and every stored bit the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_workers.store.attempts import read_run
from ray_workers.store.opening import open_root
from ray_workers.store.versions import load_manifest
from tests.support.group_attempt import GroupAttempt, train_in_group
from tests.support.rank_pool import RankPool

pytestmark = pytest.mark.slow

STEPS = 16
LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "replicated": ("tests.support.replicated_loop", {"epochs": 2}),
    "sharded, with dropout": (
        "ray_workers.loops.gpt",
        {"epochs": 2, "steps_per_epoch": 8, "batch_size": 4, "block": 32, "width": 32, "dropout": 0.2},
    ),
}  # fmt: skip
STOPS = ((3,), (7,), (8,), (9,), (15,), (3, 5, 4))
"""After how many steps of each attempt both ranks die: early, around the end of an epoch, late, again and again."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    made = RankPool(tmp_path_factory.mktemp("ranks"), 2)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("store")
    (found / "staging").mkdir()
    return found


def ended(url: str, run: str) -> list[str]:
    store = open_root(url, create=False).store
    state = read_run(store, run)
    manifest = load_manifest(store, run, state.newest_first()[0])
    assert (manifest.progress.finished, manifest.progress.step) == (True, STEPS)
    return [shard.digest for shard in manifest.shards]


@pytest.mark.parametrize("name", LOOPS)
def test_interrupted_in_mid_epoch_both_ranks_go_on_exactly(
    pool: RankPool, folder: Path, name: str
) -> None:
    loop, config = LOOPS[name]
    url = open_root(str(folder / "root"), create=True).url
    label = name.replace(",", "").replace(" ", "-")
    whole = GroupAttempt(
        url=url, run=f"{label}-whole", staging=str(folder / "staging"), loop=loop, config=config
    )
    losses = [answer for answer, _ in pool.run(train_in_group, whole)]
    assert [len(series) for series in losses] == [STEPS, STEPS]
    assert losses[0] != losses[1], (
        "each rank must have samples of its own, or the order shows nothing"
    )
    expected = ended(url, whole.run)
    for stops in STOPS:
        again = replace(whole, run=f"{label}-{'-'.join(map(str, stops))}")
        at = 0
        for stop in (*stops, None):
            answers = pool.run(train_in_group, replace(again, stop_after=stop))
            assert {error for _, error in answers} == {None if stop is None else "stopped"}
            for rank, (found, _) in enumerate(answers):
                assert found == losses[rank][at : at + len(found)], (stops, rank, at)
            if stop is not None:
                at = (at + stop) // 2 * 2  # versions stand at even steps
        assert ended(url, again.run) == expected
