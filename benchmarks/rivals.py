"""What a user would pick instead, on a local folder, with fsync, in the same run: how long the loop stands still."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, async_save, save

from benchmarks.job import Made

__all__ = ["RIVALS", "one_rank"]

Rival = Callable[[Made, Path], tuple[float, Callable[[], None]]]
"""Begins a save; gives the seconds that the loop stood still, and how to wait for the rest."""


@contextmanager
def one_rank() -> Iterator[None]:
    """A process group of one, which the rivals ask for."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29581")
    dist.init_process_group("gloo", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _state(made: Made) -> dict[str, Any]:
    optimizer: Any = made.parts.optimizer
    return {"model": made.parts.model.state_dict(), "optimizer": optimizer.state_dict()}


def _torch_save(made: Made, folder: Path) -> tuple[float, Callable[[], None]]:
    began = time.perf_counter()
    with (folder / "state.pt").open("wb") as file:
        torch.save(_state(made), file)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began, lambda: None


def _safetensors(made: Made, folder: Path) -> tuple[float, Callable[[], None]]:
    began = time.perf_counter()
    path = folder / "state.safetensors"
    save_file({str(i): t.contiguous() for i, t in enumerate(made.tensors)}, path)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return time.perf_counter() - began, lambda: None


def _flat(made: Made) -> dict[str, torch.Tensor]:
    return {str(i): t for i, t in enumerate(made.tensors)}


def _dcp_save(made: Made, folder: Path) -> tuple[float, Callable[[], None]]:
    began = time.perf_counter()
    save(_flat(made), storage_writer=FileSystemWriter(folder, sync_files=True))
    return time.perf_counter() - began, lambda: None


def _dcp_async(kind: AsyncCheckpointerType) -> Rival:
    def begin(made: Made, folder: Path) -> tuple[float, Callable[[], None]]:
        writer = FileSystemWriter(folder, sync_files=True)
        began = time.perf_counter()
        answer: Any = async_save(_flat(made), storage_writer=writer, async_checkpointer_type=kind)
        return time.perf_counter() - began, answer.result

    return begin


_ALL: dict[str, Rival] = {
    "torch DCP async_save, thread": _dcp_async(AsyncCheckpointerType.THREAD),
    "torch DCP async_save, process": _dcp_async(AsyncCheckpointerType.PROCESS),
    "torch DCP save": _dcp_save,
    "torch.save": _torch_save,
    "safetensors": _safetensors,
}


def _in_fresh_folder(rival: Rival) -> Callable[[Made, Path], tuple[float, float]]:
    def measured(made: Made, folder: Path) -> tuple[float, float]:
        place = folder / uuid.uuid4().hex
        place.mkdir(parents=True)
        began = time.perf_counter()
        stood, wait = rival(made, place)
        wait()
        durable = time.perf_counter() - began
        shutil.rmtree(place)
        return stood, durable

    return measured


RIVALS = {name: _in_fresh_folder(rival) for name, rival in _ALL.items()}
"""By name: gives the seconds that the loop stood still and those until all was durable."""
