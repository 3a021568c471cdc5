"""Ray Train's own way to store checkpoints and Pawl's, in turns in one loop of a training of one worker."""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import Checkpoint, CheckpointConfig, CheckpointUploadMode, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from benchmarks.contest import Round
from benchmarks.figures import copy_seconds
from benchmarks.job import Job, Made, compute, make_state, open_job, work
from ray_workers.store.opening import StorageTarget

__all__ = ["ray_train_rounds"]

_LOOK_S = 0.02


def _loop(config: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    made = make_state(config["mib"])
    spare = [torch.ones_like(tensor) for tensor in made.tensors]
    target, staging = StorageTarget(config["store"]), Path(config["staging"])
    with open_job(target, made, staging) as job:
        ways: dict[str, Callable[[], float]] = {
            "Pawl": _ours(
                job, int(compute(0.2) / 0.2 * (4 * copy_seconds(made.tensors, spare) + 0.05))
            ),
            "Ray Train SYNC": _theirs("SYNC", made, config["scratch"]),
            "Ray Train ASYNC": _theirs("ASYNC", made, config["scratch"]),
        }
        found: dict[str, list[Round]] = {name: [] for name in ways}
        for _ in range(config["rounds"] + 1):  # the first of each is left out
            for name in random.sample(list(ways), len(ways)):
                memcpy = copy_seconds(made.tensors, spare)
                found[name].append(Round(stood=ways[name](), added=None, memcpy=memcpy))
            job.tidy()
    text = json.dumps({name: [asdict(one) for one in took[1:]] for name, took in found.items()})
    Path(config["result"]).write_text(text)


def _ours(job: Job, beside: int) -> Callable[[], float]:
    """As `taking.SaveFigures.stall`."""

    def stood() -> float:
        seconds = job.save()
        work(beside)
        seconds += job.step()
        job.wait()
        return seconds

    return stood


def _theirs(mode: str, made: Made, scratch: str) -> Callable[[], float]:
    optimizer: Any = made.parts.optimizer

    def stood() -> float:
        began = time.perf_counter()
        folder = Path(tempfile.mkdtemp(dir=scratch))
        with (folder / "state.pt").open("wb") as file:
            torch.save(
                {"model": made.parts.model.state_dict(), "optimizer": optimizer.state_dict()}, file
            )
            file.flush()
            os.fsync(file.fileno())
        ray.train.report(
            {},
            checkpoint=Checkpoint(folder),
            checkpoint_upload_mode=CheckpointUploadMode[mode],
            delete_local_checkpoint_after_upload=True,
        )
        seconds = time.perf_counter() - began
        while (
            folder.exists()
        ):  # it goes when it is uploaded: nothing of it runs beside whoever is next
            time.sleep(_LOOK_S)
        return seconds

    return stood


def ray_train_rounds(mib: int, rounds: int, folder: Path, staging: Path) -> dict[str, list[Round]]:
    """How long the loop stood still, by way; on the folder alone."""
    result = folder / f"ray-{mib}.json"
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        TorchTrainer(
            _loop,
            train_loop_config={
                "mib": mib, "rounds": rounds, "result": str(result), "scratch": str(scratch),
                "store": str(folder / "store"), "staging": str(staging),
            },
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(
                name="bench", storage_path=str(folder / "ray"),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
            ),
        ).fit()  # fmt: skip
    finally:
        ray.shutdown()
    found: dict[str, list[dict[str, Any]]] = json.loads(result.read_text())
    return {name: [Round(**one) for one in took] for name, took in found.items()}
