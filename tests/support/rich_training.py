"""A training of milliseconds with much that must come back: two optimizers, two kinds of schedule, a gradient scaler that
backs off and grows, an average of the weights, noise from torch, numpy and Python."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchdata.stateful_dataloader import StatefulDataLoader

from ray_workers.sampling import GlobalBatches
from ray_workers.session import CheckpointSession
from tests.support.in_process import Loop
from tests.support.small_training import Killed

__all__ = ["EPOCHS", "STEPS", "rich_loop"]

EPOCHS, PER_EPOCH = 3, 4
STEPS = EPOCHS * PER_EPOCH
OVERFLOW_AT = (5, 6)
"""Steps whose gradients are infinite: the scaler skips them and halves its scale."""


class _Noisy(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Augmentation inside the loader's workers, derived from the sample alone."""

    def __len__(self) -> int:
        return 4 * PER_EPOCH

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        draw = torch.Generator().manual_seed(1000 + index)
        sample = torch.randn(6, generator=draw)
        return sample, sample.sum().sin()


def _networks() -> nn.ModuleDict:
    body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU())
    return nn.ModuleDict({"body": body, "head": nn.Linear(8, 1)})


def rich_loop(*, die_at: int | None = None, loader_workers: int = 0, forget: str = "") -> Loop:
    """A loop that dies at the start of step `die_at`; it does not hand over what `forget` names."""

    def loop(config: dict[str, Any]) -> None:
        del config
        torch.manual_seed(11)
        np.random.seed(12)
        random.seed(13)
        torch.set_num_threads(1)
        model = _networks()
        optimizers = {
            "body": torch.optim.AdamW(model["body"].parameters(), lr=0.01, amsgrad=True),
            "head": torch.optim.SGD(model["head"].parameters(), lr=0.02, momentum=0.9),
        }
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizers["body"], max_lr=0.05, total_steps=STEPS
        )
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizers["head"], patience=1, factor=0.5, threshold=0.2
        )
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
        batches = GlobalBatches(4 * PER_EPOCH, global_batch=4, rank=0, world_size=1, seed=3)
        loader = StatefulDataLoader(_Noisy(), batch_sampler=batches, num_workers=loader_workers)
        extra = {"scaler": scaler, "average": average}
        extra.pop(forget, None)
        with CheckpointSession.open(
            model=model,
            optimizer=optimizers,
            scheduler=[cycle] if forget == "plateau" else [cycle, plateau],
            loader=loader,
            extra=extra,
        ) as session:
            for inputs, wanted in session.batches(epochs=EPOCHS):
                if session.step + 1 == die_at:
                    raise Killed
                noise = float(np.random.rand()) + random.random()  # noqa: S311
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = (
                        (model["head"](model["body"](inputs + 0.1 * noise)).squeeze(1) - wanted)
                        .square()
                        .mean()
                    )
                for optimizer in optimizers.values():
                    optimizer.zero_grad()
                scaler.scale(loss).backward()
                if session.step + 1 in OVERFLOW_AT:
                    for parameter in model.parameters():
                        parameter.grad = torch.full_like(parameter, float("inf"))
                for optimizer in optimizers.values():
                    scaler.step(optimizer)
                scaler.update()
                cycle.step()
                average.update_parameters(model)
                plateau.step(float(loss.detach()))
                session.advance(
                    loss=loss, scale=scaler.get_scale(), lr=optimizers["head"].param_groups[0]["lr"],
                    average=sum(float(p.detach().square().sum()) for p in average.parameters()),
                )  # fmt: skip

    return loop
