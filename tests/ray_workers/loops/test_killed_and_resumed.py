"""The reference loops on the real session and a real folder, in one process: killed and resumed, they end the same."""

from __future__ import annotations

import importlib
import json
import time

import pytest

from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.store.attempts import read_run
from ray_workers.store.opening import StorageTarget
from tests.support.in_process import OneProcess

LOOPS = {
    "digits": (
        {"epochs": 2, "batch_size": 256, "hidden": 16, "step_delay": 0.03},
        [1, 5, 7, 8, 9, 14],
    ),
    "gpt": (
        {
            "epochs": 2,
            "steps_per_epoch": 4,
            "batch_size": 2,
            "block": 16,
            "width": 16,
            "step_delay": 0.03,
        },
        [1, 3, 4, 5, 6, 8],
    ),
}
"""By name: config, and the steps to die in: first, amid, at and around the end of an epoch, last. With the delay most saves are durable one step later."""


class Killed(BaseException):
    """Stands for SIGKILL in one process: nothing catches it."""


def one_process(folder):
    (folder / "staging").mkdir()
    return OneProcess(
        target=StorageTarget(str(folder / "store")),
        run="run",
        staging=folder / "staging",
        thresholds=SaveThresholds(every_steps=1),
    )


def die_in_step(monkeypatch, module, number, run):
    """Let the loop's own step number `number` do its work, and die before it can be counted.

    What step 1 saved is durable by then, however slow the machine: else nothing would be resumed.
    """
    whole_step, calls = module.step, iter(range(1, 1000))

    def step(*parts):
        made = whole_step(*parts)
        if next(calls) == number:
            while number > 1 and not read_run(run.target.open().store, "run").versions:
                time.sleep(0.01)
            raise Killed
        return made

    monkeypatch.setattr(module, "step", step)


def outcome(run):
    manifest = run.newest_manifest()
    return [shard.digest for shard in manifest.shards], manifest.curve, manifest.progress.step


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """By loop: what an uninterrupted run leaves."""
    outcomes = {}
    for loop, (config, _) in LOOPS.items():
        run = one_process(tmp_path_factory.mktemp(loop))
        run.attempt(importlib.import_module(f"ray_workers.loops.{loop}").train_loop, config)
        outcomes[loop] = outcome(run)
    return outcomes


@pytest.mark.parametrize("loader_workers", [0, 2])
@pytest.mark.parametrize(
    ("loop", "death"), [(loop, step) for loop in LOOPS for step in LOOPS[loop][1]]
)
def test_killed_at_any_kind_of_step_it_ends_as_if_nothing_had_happened(
    tmp_path, monkeypatch, whole, loop, death, loader_workers
):
    module = importlib.import_module(f"ray_workers.loops.{loop}")
    config = {**LOOPS[loop][0], "loader_workers": loader_workers}
    run = one_process(tmp_path)
    with monkeypatch.context() as patch:
        die_in_step(patch, module, death, run)
        with pytest.raises(Killed):
            run.attempt(module.train_loop, config)
    last = run.attempt(module.train_loop, config)
    resumed_at = last.point.step if last.point else 0
    assert resumed_at < death
    assert resumed_at > 0 or death == 1
    assert outcome(run) == whole[loop]
    (data,) = run.target.open().store.list("datasets/")
    assert data.key in json.dumps(run.newest_manifest().plain)
