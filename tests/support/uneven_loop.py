"""A loop whose ranks differ in more than their data: in BatchNorm statistics that nobody keeps alike, and in objects."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torchdata.stateful_dataloader import StatefulDataLoader

from ray_workers.sampling import GlobalBatches
from ray_workers.session import CheckpointSession

__all__ = ["Seen", "step", "train_loop"]


class Seen:
    """A sum over all that this rank saw, which its losses depend on."""

    def __init__(self) -> None:
        self.total = torch.zeros(2)

    def add(self, inputs: torch.Tensor) -> float:
        self.total += inputs.mean(dim=0)
        return float(self.total.sum())

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.total = state_dict["total"].clone()


def train_loop(config: dict[str, Any]) -> None:
    """Eight steps; `sharded`: FSDP2, else DDP that does not broadcast buffers."""
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(5)
    samples = torch.randn(64, 2)
    data = torch.utils.data.TensorDataset(samples, samples.sin().sum(dim=1, keepdim=True))
    model: nn.Module = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    if config["sharded"]:
        fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    else:
        model = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = GlobalBatches(len(data), global_batch=8, rank=rank, world_size=world, seed=1)
    loader, seen = StatefulDataLoader(data, batch_sampler=batches), Seen()
    with CheckpointSession.open(
        model=model, optimizer=optimizer, loader=loader, own={"seen": seen}
    ) as session:
        for inputs, wanted in session.batches(epochs=1):
            session.advance(loss=step(model, optimizer, inputs, wanted, seen))


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: torch.Tensor,
    wanted: torch.Tensor,
    seen: Seen,
) -> float:
    """One step; the answer shows this rank's statistics and its sum."""
    optimizer.zero_grad()
    (model(inputs) - wanted).square().mean().backward()
    optimizer.step()
    statistics = sum(float(buffer.sum()) for buffer in model.buffers())
    return statistics + seen.add(inputs)
