"""Small trainings with every kind of state that must come back: used in one process and on two ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import nn

from ray_workers.training_state import TrainingParts

__all__ = ["OPTIMIZERS", "Net", "Training", "digest_tree", "make_training"]


class Net(nn.Module):
    """BatchNorm buffers, dropout, a tied weight, a parameter that never has a gradient, a frozen one, a scalar buffer."""

    def __init__(self, *, batch_norm: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8) if batch_norm else nn.LayerNorm(8)
        self.drop = nn.Dropout(0.2)
        self.middle = nn.Linear(8, 8, bias=False)
        self.tied = nn.Linear(8, 8, bias=False)
        self.tied.weight = self.middle.weight
        self.last = nn.Linear(8, 3)
        self.unused = nn.Linear(3, 2)
        self.frozen = nn.Linear(3, 3)
        self.frozen.requires_grad_(requires_grad=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        calls = self.calls
        assert isinstance(calls, torch.Tensor)
        calls += 1
        x = self.drop(F.relu(self.norm(self.first(x))))
        x = F.relu(self.tied(F.relu(self.middle(x))))
        out: torch.Tensor = self.frozen(self.last(x))
        return out


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "adamw amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True, foreach=False),
    "adam tensor lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-2), foreach=False),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "sgd dampening": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, dampening=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, lr_decay=1e-3),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2),
}  # fmt: skip


@dataclass
class Training:
    parts: TrainingParts
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any
    generator: torch.Generator

    def steps(self, count: int, *, rank: int = 0) -> list[float]:
        losses = []
        for _ in range(count):
            x = torch.randn(16, 6, generator=self.generator) + rank
            y = torch.randint(0, 3, (16,), generator=self.generator)
            loss = F.cross_entropy(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            losses.append(float(loss.detach()))
        return losses


class GeneratorState:
    """A user's own object with a `state_dict`."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def state_dict(self) -> dict[str, Any]:
        return {"state": self._generator.get_state(), "note": ("a", np.float32(0.5))}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        assert state_dict["note"] == ("a", np.float32(0.5))
        self._generator.set_state(state_dict["state"])


def make_training(
    optimizer: str = "adamw",
    *,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    seed: int = 0,
    batch_norm: bool = True,
) -> Training:
    """Fresh objects. Two seeds differ in every number, so that nothing agrees by chance."""
    torch.manual_seed(seed)
    model = wrap(Net(batch_norm=batch_norm))
    opt = OPTIMIZERS[optimizer](model.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        opt,
        max_lr=0.05,
        total_steps=100,
        cycle_momentum="adamw" in optimizer or "momentum" in optimizer,
    )
    generator = torch.Generator().manual_seed(seed)
    parts = TrainingParts(
        model=model, optimizer=opt, scheduler=scheduler, extra={"draws": GeneratorState(generator)}
    )
    return Training(
        parts=parts, model=model, optimizer=opt, scheduler=scheduler, generator=generator
    )


def digest_tree(tree: Any) -> Any:
    """A picklable spelling of a state tree with every bit of every tensor in it; DTensors are gathered."""
    if isinstance(tree, torch.Tensor):
        whole = tree.full_tensor() if hasattr(tree, "full_tensor") else tree
        raw = whole.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return str(whole.dtype), tuple(whole.shape), raw
    if isinstance(tree, dict):
        return {key: digest_tree(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [digest_tree(value) for value in tree]
    return repr(tree)
