"""Ray Train's own way to store checkpoints, in a training of one worker: how long `report` keeps the loop."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import Checkpoint, CheckpointUploadMode, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from benchmarks.figures import copy_seconds
from benchmarks.job import make_state

__all__ = ["ray_train_pairs"]


def _loop(config: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    made = make_state(config["mib"])
    optimizer: Any = made.parts.optimizer
    spare = [torch.ones_like(tensor) for tensor in made.tensors]
    found: dict[str, list[tuple[float, float]]] = {"SYNC": [], "ASYNC": []}
    for _ in range(config["rounds"] + 1):
        for mode, pairs in found.items():
            memcpy = copy_seconds(made.tensors, spare)
            began = time.perf_counter()
            folder = Path(tempfile.mkdtemp(dir=config["scratch"]))
            with (folder / "state.pt").open("wb") as file:
                torch.save(
                    {"model": made.parts.model.state_dict(), "optimizer": optimizer.state_dict()},
                    file,
                )
                file.flush()
                os.fsync(file.fileno())
            ray.train.report(
                {},
                checkpoint=Checkpoint(folder),
                checkpoint_upload_mode=CheckpointUploadMode[mode],
                delete_local_checkpoint_after_upload=True,
            )
            pairs.append((time.perf_counter() - began, memcpy))
    Path(config["result"]).write_text(json.dumps({k: v[1:] for k, v in found.items()}))


def ray_train_pairs(mib: int, rounds: int, folder: Path) -> dict[str, list[tuple[float, float]]]:
    """(seconds that the loop stood still, memcpy) by mode; the first save of each is left out."""
    result = folder / "ray.json"
    (folder / "scratch").mkdir(exist_ok=True)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        TorchTrainer(
            _loop,
            train_loop_config={
                "mib": mib, "rounds": rounds, "result": str(result), "scratch": str(folder / "scratch"),
            },
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(name="bench", storage_path=str(folder / "ray")),
        ).fit()  # fmt: skip
    finally:
        ray.shutdown()
    found: dict[str, list[tuple[float, float]]] = json.loads(result.read_text())
    return found
