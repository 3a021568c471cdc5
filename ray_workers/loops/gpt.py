"""GPT: a small language model on the text of the Python language reference, sharded with FSDP2 over CPU workers.

Nothing here knows of failures. `CheckpointSession.open` restores, `advance` saves; the rest is plain torch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torchdata.stateful_dataloader import StatefulDataLoader

from ray_workers.context import current_context
from ray_workers.datasets import DatasetRecord, ensure_dataset, read_parquet
from ray_workers.loops.gpt_model import GPT
from ray_workers.loops.language_reference import Windows, text_parquet, to_text
from ray_workers.loops.seeding import seed_worker
from ray_workers.loops.settings import number, read_settings
from ray_workers.loss_probe import Probe
from ray_workers.sampling import GlobalBatches
from ray_workers.session import CheckpointSession
from ray_workers.store.errors import InvalidInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    epochs: int = number(3, low=1)
    steps_per_epoch: int = number(50, low=1)
    batch_size: int = number(16, low=1)
    """Windows of one worker in one step."""
    global_batch: int = number(0, low=0)
    """Windows of all workers in one step, divided among them; 0: `batch_size` for each."""
    block: int = number(64, low=1, below=65_536)
    """Bytes of context."""
    layers: int = number(2, low=1, below=1000)
    heads: int = number(2, low=1, below=1000)
    width: int = number(64, low=1, below=65_536)
    dropout: float = number(0.1, low=0, below=1)
    lr: float = number(1e-3, low=0)
    seed: int = number(0, low=0, below=2**31)
    loader_workers: int = number(0, low=0, below=64)
    step_delay: float = number(0.0, low=0, below=60)
    """Seconds slept after every step, so that a run this small lasts long enough to be killed."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InvalidInputError(
                f"The setting 'width' ({self.width}) must be a multiple of 'heads' ({self.heads})."
            )


def train_loop(config: dict[str, Any]) -> None:
    """Train on the language reference; `config` may set any field of `Settings`."""
    settings = read_settings(Settings, config)
    torch.set_num_threads(1)  # two threads add in another order: other bits
    storage = current_context().storage
    data = ensure_dataset(storage.open(), "python-reference", text_parquet)
    model, optimizer, loader = build(settings, to_text(read_parquet(storage, data)))
    with CheckpointSession.open(
        model=model,
        optimizer=optimizer,
        loader=loader,
        extra={"data": DatasetRecord(data)},
        probe=probe_of(model, settings),
    ) as session:
        for window in session.batches(epochs=settings.epochs):
            session.advance(loss=step(model, optimizer, window))
            time.sleep(settings.step_delay)


def build(
    settings: Settings, text: Tensor
) -> tuple[nn.Module, torch.optim.Optimizer, StatefulDataLoader]:
    """Model, optimizer and loader of this worker, the parameters sharded over all ranks."""
    s = settings
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.manual_seed(s.seed)  # every rank makes the whole model alike, then keeps its part
    model = network(s)
    if dist.is_initialized():
        mesh = init_device_mesh("cpu", (world,))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=s.lr)
    step_windows = s.global_batch or s.batch_size * world
    windows = Windows(text, length=s.block + 1, count=s.steps_per_epoch * step_windows)
    batches = GlobalBatches(
        len(windows), global_batch=step_windows, rank=rank, world_size=world, seed=s.seed
    )
    loader = StatefulDataLoader(windows, batch_sampler=batches, num_workers=s.loader_workers)
    seed_worker(s.seed + rank)  # from here on only dropout draws: other on every rank
    return model, optimizer, loader


def network(s: Settings) -> GPT:
    return GPT(block=s.block, layers=s.layers, heads=s.heads, width=s.width, dropout=s.dropout)


def probe(config: dict[str, Any]) -> tuple[nn.Module, Probe]:
    """A fresh model and its loss probe, for `--probe ray_workers.loops.gpt:probe`."""
    settings = read_settings(Settings, config)
    model = network(settings)
    return model, probe_of(model, settings)


def probe_of(model: nn.Module, s: Settings) -> Probe:
    """The loss on a few windows that follow from the settings alone."""
    draw = torch.Generator().manual_seed(s.seed)
    windows = torch.randint(0, 256, (4, s.block + 1), generator=draw)
    return lambda: model(windows)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, window: Tensor) -> float:
    """One optimizer step; returns the loss on this worker's windows."""
    optimizer.zero_grad()
    loss = model(window)
    loss.backward()
    optimizer.step()
    return float(loss.item())
