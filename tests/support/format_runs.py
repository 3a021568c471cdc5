"""The runs of a format fixture: every kind of record and every feature of a version, as small as they can be."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any
from unittest import mock

from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.session import CheckpointSession
from ray_workers.store.attempts import read_run, this_process
from ray_workers.store.bodies import (
    AttemptAdopted,
    ForkReleased,
    OriginDropped,
    Retire,
    RolledBack,
    Tagged,
)
from ray_workers.store.keys import log_key
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import open_root
from ray_workers.store.repair import plan_repair, repair
from ray_workers.store.sweep import delete_run, sweep
from tests.support.factories import MadeUpRun, flip_byte
from tests.support.small_training import Killed, patient_process, small_loop

__all__ = ["make_runs"]


def make_runs(folder: Path) -> None:
    """Write them into the empty store `folder/store`, the way Pawl writes."""
    root = folder / "store"
    store = open_root(str(root), create=True).store
    with (
        mock.patch("socket.gethostname", return_value="trainer-1"),
        mock.patch("ray_workers.store.attempts._boot_id", return_value="a-boot"),
    ):
        _trained(folder)
        _files(folder)
        _kept_and_given_up(store)
        _deleted(store)
        _damaged(root, store)


def _trained(folder: Path) -> None:
    """Full training states: killed in the middle, resumed, ended."""
    run = patient_process(folder, "trained")
    run.thresholds = SaveThresholds(every_steps=5)
    with contextlib.suppress(Killed):
        run.attempt(small_loop(die_at=8, probed=True))
    run.attempt(small_loop(probed=True))


def _files(folder: Path) -> None:
    """Whole checkpoint directories."""

    def loop(_: dict[str, Any]) -> None:
        with CheckpointSession.open() as session:
            target = folder / "checkpoint"
            (target / "inner").mkdir(parents=True)
            (target / "inner" / "state.json").write_text(json.dumps({"step": 1}))
            (target / "empty").touch()
            (target / "weights.bin").write_bytes(bytes(range(256)))
            session.report({"loss": 0.5}, checkpoint=target)

    patient_process(folder, "files").attempt(loop)


def _kept_and_given_up(store: ObjectStore) -> None:
    """Shared shards, tags, verdicts, a rollback, an interruption, a takeover; what is retired, swept, forked from."""
    run = MadeUpRun(store=store, name="features")
    fence = run.start()
    run.commit(10, content=1.0)
    run.commit(20, content=2.0, base=1)
    run.append(AttemptAdopted(fence=fence, flow_run_id="flow-0", run_count=1))
    run.judge(1, 2)
    run.tag("release", 1)
    run.tag("moved", 1)
    run.append(Tagged(name="moved", version=run.version(2).name, expects=run.version(1).name))
    run.commit(30, content=3.0)
    run.judge(3, check="bytes", reason="a shard is not what was written")
    run.commit(40, content=4.0)
    run.append(RolledBack(to=run.version(2).name))
    run.start(resume=2, passed_over={3: "quarantined"})
    run.told = {"interrupted": "SIGTERM"}
    run.commit(50, content=5.0, metrics={"loss": float("nan"), "accuracy": 0.5})
    run.end("interrupted", "SIGTERM")
    run.told = {}
    run.start(resume=5)
    for step in (60, 70, 80):
        run.commit(step, content=float(step), config={"lr": 0.1, "layers": [1, {"wide": True}]})
    run.judge(5, 6, 7)
    run.judge(7, check="restorable")
    run.append(Retire(versions=(run.version(4).name,), reason="keep last 2"))
    sweep(store, "features", by=this_process(), grace_s=0.0)
    run.judge(8)
    run.append(Retire(versions=(run.version(6).name,), reason="keep last 2"))
    _forks(run)


def _forks(run: MadeUpRun) -> None:
    child = run.fork(2, "child")
    child.commit(30, content=6.0)
    child.tag("best", 1)
    freed = run.fork(2, "freed")
    freed.commit(30, content=7.0)
    freed.append(OriginDropped())
    freed.end()
    run.append(
        ForkReleased(
            child="freed", child_run_id=str(freed.log.state.run_id), version=run.version(2).name
        )
    )


def _deleted(store: ObjectStore) -> None:
    run = MadeUpRun(store=store, name="deleted")
    run.start()
    run.commit(10)
    run.end()
    delete_run(store, "deleted", by=this_process())
    sweep(store, "deleted", by=this_process(), grace_s=0.0)


def _damaged(root: Path, store: ObjectStore) -> None:
    """A record that rotted and was looked at, a hole that was filled, a shard that rotted and was found."""
    run = MadeUpRun(store=store, name="damaged")
    run.start()
    for step in (10, 20, 30):
        run.commit(step, content=float(step))
    run.judge(1)
    run.end()
    slots = read_run(store, "damaged").slot
    flip_byte(root, log_key("damaged", slots - 1))
    (root / log_key("damaged", slots - 2)).unlink()
    plan = plan_repair(store, "damaged")
    repair(store, plan, by=this_process(), lost={"verdicts": "version 1 was sound"})
    run = MadeUpRun(store=store, name="rotten")
    run.start()
    run.commit(10, content=1.0)
    run.commit(20, content=2.0)
    run.end()
    flip_byte(root, run.shard_keys(2)[0])
    run.judge(2, check="bytes", reason="a shard is not what was written")
