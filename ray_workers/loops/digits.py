"""Digits: a small classifier on the UCI digits, data parallel over any number of CPU workers.

Nothing here knows of failures. `CheckpointSession.open` restores, `advance` saves; the rest is plain torch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from ray_workers.context import current_context
from ray_workers.datasets import DatasetRecord, ensure_dataset, parquet_bytes, read_parquet
from ray_workers.loops.seeding import seed_worker
from ray_workers.loops.settings import number, read_settings
from ray_workers.loss_probe import Probe
from ray_workers.sampling import GlobalBatches
from ray_workers.session import CheckpointSession


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    epochs: int = number(6, low=1)
    batch_size: int = number(32, low=2)  # of one worker; one sample has no variance
    global_batch: int = number(0, low=0)
    """Samples of all workers in one step, divided among them; 0: `batch_size` for each."""
    lr: float = number(1e-3, low=0)
    hidden: int = number(64, low=1, below=65_536)
    dropout: float = number(0.1, low=0, below=1)
    seed: int = number(0, low=0, below=2**31)
    loader_workers: int = number(0, low=0, below=64)
    step_delay: float = number(0.0, low=0, below=60)
    """Seconds slept after every step, so that a run this small lasts long enough to be killed."""


def train_loop(config: dict[str, Any]) -> None:
    """Train on the digits; `config` may set any field of `Settings`."""
    settings = read_settings(Settings, config)
    torch.set_num_threads(1)  # two threads add in another order: other bits
    storage = current_context().storage
    data = ensure_dataset(storage.open(), "uci-digits", digits_parquet)
    samples = to_samples(read_parquet(storage, data))
    model, optimizer, loader = build(settings, samples)
    with CheckpointSession.open(
        model=model,
        optimizer=optimizer,
        loader=loader,
        extra={"data": DatasetRecord(data)},
        probe=probe_of(model, samples),
    ) as session:
        for batch in session.batches(epochs=settings.epochs):
            loss, accuracy = step(model, optimizer, batch)
            session.advance(loss=loss, accuracy=accuracy)
            time.sleep(settings.step_delay)


def build(
    settings: Settings, samples: TensorDataset
) -> tuple[nn.Module, torch.optim.Optimizer, StatefulDataLoader]:
    """Model, optimizer and loader of this worker, the same parameters on every rank."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.manual_seed(settings.seed)
    model = network(settings)
    if dist.is_initialized():
        # DDP lays out its buckets anew after its first backward, unless told this. Then three and more gradients add up in
        # another order, and a resumed run would get other bits. Two have but one sum.
        model = DistributedDataParallel(model, find_unused_parameters=world > 2)  # noqa: PLR2004
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    batches = GlobalBatches(
        len(samples),
        global_batch=settings.global_batch or settings.batch_size * world,
        rank=rank,
        world_size=world,
        seed=settings.seed,
    )
    loader = StatefulDataLoader(samples, batch_sampler=batches, num_workers=settings.loader_workers)
    seed_worker(settings.seed + rank)  # from here on only dropout draws: other on every rank
    return model, optimizer, loader


def network(settings: Settings) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, settings.hidden),
        nn.BatchNorm1d(settings.hidden),
        nn.ReLU(),
        nn.Dropout(settings.dropout),
        nn.Linear(settings.hidden, 10),
    )


def probe(config: dict[str, Any]) -> tuple[nn.Module, Probe]:
    """A fresh model and its loss probe, for `--probe ray_workers.loops.digits:probe`."""
    model = network(read_settings(Settings, config))
    return model, probe_of(model, to_samples(_digits_table()))


def probe_of(model: nn.Module, samples: TensorDataset) -> Probe:
    """The loss on the first 64 images."""
    pixels, labels = samples[:64]
    return lambda: F.cross_entropy(model(pixels), labels)


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]
) -> tuple[float, float]:
    """One optimizer step; returns loss and accuracy on this worker's batch."""
    pixels, labels = batch
    logits = model(pixels)
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item(), (logits.argmax(dim=1) == labels).float().mean().item()


def to_samples(table: Any) -> TensorDataset:
    """Pixels from 0 to 1, and labels."""
    pixels = torch.tensor(table["pixels"].combine_chunks().flatten().to_numpy())
    labels = torch.tensor(table["label"].to_numpy())
    return TensorDataset(pixels.view(-1, 64).float() / 16, labels.long())


def digits_parquet() -> bytes:
    """The 1797 images of 8 by 8 pixels that scikit-learn carries; a pixel is 0 to 16."""
    return parquet_bytes(_digits_table())


def _digits_table() -> Any:
    from sklearn.datasets import load_digits  # noqa: PLC0415 - a second and more, in every process that has the loop

    digits = load_digits()
    pixels = pa.FixedSizeListArray.from_arrays(digits.data.astype("uint8").ravel(), 64)
    return pa.table({"pixels": pixels, "label": digits.target.astype("uint8")})
