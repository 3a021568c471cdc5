"""A data-parallel loop whose loss is the same function of the global batch for any number of ranks: no BatchNorm, no dropout."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchdata.stateful_dataloader import StatefulDataLoader

from ray_workers.sampling import GlobalBatches
from ray_workers.session import CheckpointSession

__all__ = ["step", "train_loop"]


def train_loop(config: dict[str, Any]) -> None:
    """`epochs` of 8 steps of 12 samples; `own_order` positions each rank's loader by its own count."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.manual_seed(5)
    samples = torch.randn(100, 6)
    data = torch.utils.data.TensorDataset(samples, samples.sin().sum(dim=1, keepdim=True))
    model: nn.Module = nn.Sequential(
        nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 1)
    )
    if world > 1:
        model = DistributedDataParallel(model, find_unused_parameters=world > 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    if config.get("own_order"):
        sampler: Any = torch.utils.data.DistributedSampler(data, world, rank, seed=1)
        loader = StatefulDataLoader(data, batch_size=12 // world, sampler=sampler)
    else:
        batches = GlobalBatches(len(data), global_batch=12, rank=rank, world_size=world, seed=1)
        loader = StatefulDataLoader(
            data, batch_sampler=batches, num_workers=config.get("loader_workers", 0)
        )
    torch.manual_seed(100 + rank)
    with CheckpointSession.open(model=model, optimizer=optimizer, loader=loader) as session:
        for inputs, wanted in session.batches(epochs=config["epochs"]):
            session.advance(loss=step(model, optimizer, inputs, wanted))


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, wanted: torch.Tensor
) -> float:
    optimizer.zero_grad()
    loss = (model(inputs) - wanted).square().mean()
    loss.backward()
    optimizer.step()
    return float(loss.detach())
