"""Reference loops in a group of real processes, as Ray Train would start them, but without Ray and with a fake session."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from unittest import mock

import torch
from torch.distributed.tensor import DTensor

from ray_workers.store.opening import StorageTarget
from tests.support.fake_session import FakeSession, Killed
from tests.support.rank_pool import RankPool

__all__ = ["LoopResult", "run_group", "run_loop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResult:
    """What one rank saw, bit for bit: numbers as they were, states as digests."""

    metrics: list[dict[str, float]]
    """Of every step, over all lives of the loop."""
    first: str
    """Digest of the parameters and buffers before the first step, gathered from all ranks where they are sharded."""
    last: str
    """Digest of this rank's part of model and optimizer after the last step."""
    rng: str
    """Digest of torch's random state after the last step."""

    @property
    def losses(self) -> list[float]:
        return [step["loss"] for step in self.metrics]


class _WatchedSession(FakeSession):
    first = ""

    def open(self, *, model: Any, optimizer: Any, loader: Any, extra: Any, probe: Any) -> Self:
        self.first = _digest([_whole(value) for value in model.state_dict().values()])
        return super().open(
            model=model, optimizer=optimizer, loader=loader, extra=extra, probe=probe
        )


def run_loop(
    loop: str, url: str, config: Mapping[str, Any], kills: Sequence[int] = ()
) -> tuple[LoopResult, FakeSession]:
    """Call the `train_loop` of `ray_workers.loops.<loop>` in this process; kill it after the steps `kills`, resume it."""
    module = importlib.import_module(f"ray_workers.loops.{loop}")
    context = SimpleNamespace(storage=StorageTarget(url))
    lives: list[_WatchedSession] = []
    for kill in [*kills, None]:
        lives.append(_WatchedSession(lives[-1].version if lives else None, kill))
        with (
            mock.patch.object(module, "CheckpointSession", lives[-1]),
            mock.patch.object(module, "current_context", return_value=context),
        ):
            try:
                module.train_loop(dict(config))
            except Killed:
                continue
    end = lives[-1].parts
    result = LoopResult(
        metrics=[step for life in lives for step in life.metrics],
        first=lives[0].first,
        last=_digest([end["model"].state_dict(), end["optimizer"].state_dict()]),
        rng=_digest([torch.get_rng_state()]),
    )
    return result, lives[-1]


def run_group(
    folder: Path,
    loop: str,
    url: str,
    jobs: Sequence[tuple[Mapping[str, Any], Sequence[int]]],
    *,
    world: int = 2,
) -> list[list[LoopResult]]:
    """`run_loop` on `world` fresh gloo processes, for each of `jobs` (`config`, `kills`) in turn.

    Returns:
        By job, then by rank.
    """
    pool = RankPool(folder, world)
    try:
        return [pool.run(_run_job, loop, url, *job) for job in jobs]
    finally:
        pool.close()


def _run_job(loop: str, url: str, config: Mapping[str, Any], kills: Sequence[int]) -> LoopResult:
    return run_loop(loop, url, config, kills)[0]


def _whole(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _digest(tree: Any) -> str:
    digest = hashlib.sha256()
    for item in _leaves(tree):
        digest.update(item)
    return digest.hexdigest()


def _leaves(tree: Any) -> Iterator[bytes]:
    """Keys and values in order, tensors by their own bytes: of a sharded one, those of this rank."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield str(key).encode()
            yield from _leaves(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _leaves(value)
    elif isinstance(tree, torch.Tensor):
        local = tree.to_local() if isinstance(tree, DTensor) else tree
        yield f"{local.dtype}{tuple(local.shape)}".encode()
        yield local.detach().contiguous().numpy().tobytes()
    else:
        yield repr(tree).encode()
