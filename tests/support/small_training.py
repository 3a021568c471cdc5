"""A training of milliseconds with everything that must come back: dropout, BatchNorm, Adam, a schedule, a shuffle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

from ray_workers.messages import StagedShard
from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.session import CheckpointSession
from ray_workers.store.opening import StorageTarget
from ray_workers.store.shards import data_start, parse_header
from ray_workers.uploader import Uploader
from tests.support.in_process import Loop, OneProcess

__all__ = [
    "STEPS",
    "Killed",
    "final_digests",
    "patient_process",
    "probe",
    "probe_of",
    "silently_changed",
    "small_loop",
    "small_model",
]

EPOCHS = 3
STEPS = 15


class Killed(BaseException):
    """Stands for SIGKILL in one process: nothing catches it."""


class _Shuffled(torch.utils.data.Sampler[int]):
    """An order that depends on the epoch alone."""

    def __init__(self, size: int) -> None:
        self._size, self._epoch = size, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._size

    def __iter__(self):
        generator = torch.Generator().manual_seed(self._epoch)
        yield from torch.randperm(self._size, generator=generator).tolist()


def small_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 1))


def probe_of(model: nn.Module) -> Callable[[], torch.Tensor]:
    inputs = torch.linspace(-1, 1, 32).view(8, 4)
    return lambda: model(inputs).square().mean()


def probe(config: dict[str, Any]) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    """What `Validation.probe` names."""
    del config
    torch.manual_seed(99)  # other parameters than any stored ones
    model = small_model()
    return model, probe_of(model)


def small_loop(
    *,
    die_at: int | None = None,
    spoil_at: int = 0,
    spoil: Callable[[nn.Module], None] | None = None,
    probed: bool = False,
) -> Loop:
    """A loop that dies at the start of step `die_at`, and calls `spoil` on the model after step `spoil_at`."""

    def loop(config: dict[str, Any]) -> None:
        torch.manual_seed(3)
        torch.set_num_threads(1)
        data = torch.utils.data.TensorDataset(torch.randn(20, 4))
        model = small_model()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)
        loader = StatefulDataLoader(data, batch_size=4, sampler=_Shuffled(20))
        with CheckpointSession.open(
            model=model,
            optimizer=optimizer,
            loader=loader,
            scheduler=scheduler,
            probe=probe_of(model) if probed else None,
        ) as session:
            for (inputs,) in session.batches(epochs=config.get("epochs", EPOCHS)):
                if session.step + 1 == die_at:
                    raise Killed
                loss = model(inputs).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                if spoil is not None and session.step + 1 == spoil_at:
                    spoil(model)
                session.advance(loss=loss)

    return loop


def patient_process(folder: Path, name: str = "run", **options: Any) -> OneProcess:
    """A run in `folder` that saves every 2 steps and waits for each save: versions at steps 2, 4, 6 …"""
    (folder / "staging").mkdir(exist_ok=True)
    return OneProcess(
        target=StorageTarget(str(folder / "store")),
        run=name,
        staging=folder / "staging",
        thresholds=SaveThresholds(every_steps=2),
        wait_for_saves=True,
        **options,
    )


def silently_changed(monkeypatch: pytest.MonkeyPatch, at_step: int) -> None:
    """Between the copy and its digest the weights of one layer change by a thousandth: every digest will hold."""
    whole = Uploader.upload

    def upload(self: Uploader, staged: StagedShard, fence: int) -> Any:
        if staged.progress.step == at_step:
            data = bytearray(Path(staged.path).read_bytes())
            shard = bytes(data[: staged.parts[0].bytes])
            start = data_start(shard, key="staged")
            (item,) = [
                t for t in parse_header(shard, key="staged") if t.name == "shared/model/0.weight"
            ]
            weights = torch.frombuffer(
                data, dtype=torch.float32, count=24, offset=start + item.offset
            )
            weights *= 1.001
            Path(staged.path).write_bytes(data)
        return whole(self, staged, fence)

    monkeypatch.setattr(Uploader, "upload", upload)


def final_digests(run: OneProcess) -> list[str]:
    """Shard digests of the newest version: equal state gives equal digests."""
    manifest = run.newest_manifest()
    assert manifest.progress.finished
    assert manifest.progress.step == STEPS
    return [shard.digest for shard in manifest.shards]
