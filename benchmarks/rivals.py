"""What a user would pick instead, on a local folder, with fsync."""

from __future__ import annotations

import io
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import safetensors.torch
import torch
import torch.distributed as dist
from botocore.config import Config
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, async_save, save

from benchmarks.job import Made
from ray_workers.store.opening import StorageTarget

__all__ = ["Begun", "Contestant", "local_rivals", "one_rank", "s3_rivals"]


def _nothing() -> None:
    """Everything was done when the save was begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A save that lets training go on."""

    before_step: Callable[[], object] = _nothing
    """Returns when an optimizer may write."""
    wait: Callable[[], object] = _nothing
    """Returns when all is durable."""


Contestant = Callable[[], Begun]
"""Begins a save; training stands still until it returns."""

_Rival = Callable[[Made, Path], Begun]


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


def _flat(made: Made) -> dict[str, torch.Tensor]:
    return {str(i): t.contiguous() for i, t in enumerate(made.tensors)}


def _torch_save(made: Made, folder: Path) -> Begun:
    with (folder / "state.pt").open("wb") as file:
        torch.save(_state(made), file)
        file.flush()
        os.fsync(file.fileno())
    return Begun()


def _safetensors(made: Made, folder: Path) -> Begun:
    path = folder / "state.safetensors"
    safetensors.torch.save_file(_flat(made), path)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return Begun()


def _dcp_save(made: Made, folder: Path) -> Begun:
    save(_flat(made), storage_writer=FileSystemWriter(folder, sync_files=True))
    return Begun()


def _dcp_async(kind: AsyncCheckpointerType, *, beside: bool) -> _Rival:
    """With one stager for all saves, whose memory is warm from the second one on; `beside`: it copies beside training."""
    stager = DefaultStager(
        StagingOptions(
            use_pinned_memory=False,
            use_shared_memory=kind is AsyncCheckpointerType.PROCESS,
            use_async_staging=beside,
            use_non_blocking_copy=False,
        )
    )

    def begin(made: Made, folder: Path) -> Begun:
        answer: Any = async_save(
            _flat(made),
            storage_writer=FileSystemWriter(folder, sync_files=True),
            async_checkpointer_type=kind,
            async_stager=stager,
        )
        if beside:
            return Begun(
                before_step=answer.staging_completion.result, wait=answer.upload_completion.result
            )
        return Begun(wait=answer.result)

    return begin


def local_rivals(made: Made, folder: Path) -> dict[str, Contestant]:
    """Into new folders below `folder`, which are removed again."""
    thread, process = AsyncCheckpointerType.THREAD, AsyncCheckpointerType.PROCESS
    rivals = {
        "torch DCP async_save, thread": _dcp_async(thread, beside=False),
        "torch DCP async_save, thread, copied beside training": _dcp_async(thread, beside=True),
        "torch DCP async_save, process": _dcp_async(process, beside=False),
        "torch DCP save": _dcp_save,
        "torch.save": _torch_save,
        "safetensors": _safetensors,
    }
    return {name: _in_fresh_folder(rival, made, folder) for name, rival in rivals.items()}


def _in_fresh_folder(rival: _Rival, made: Made, folder: Path) -> Contestant:
    def contestant() -> Begun:
        place = folder / uuid.uuid4().hex
        place.mkdir(parents=True)
        begun = rival(made, place)

        def wait() -> None:
            begun.wait()
            shutil.rmtree(place)

        return Begun(before_step=begun.before_step, wait=wait)

    return contestant


def s3_rivals(made: Made, target: StorageTarget) -> dict[str, Contestant]:
    """Into `target`, with boto3's own parallel upload."""
    keys = target.credentials
    if keys is None:
        raise ValueError(f"{target.url} has no credentials")
    client = boto3.client(
        "s3",
        endpoint_url=keys.endpoint_url,
        aws_access_key_id=keys.access_key_id,
        aws_secret_access_key=keys.secret_access_key,
        region_name="us-east-1",
        # A trailing checksum is what Ceph 16 refuses.
        config=Config(
            request_checksum_calculation="when_required", s3={"addressing_style": "path"}
        ),
    )
    bucket = urlsplit(target.url).netloc

    def send(data: io.BytesIO) -> Begun:
        key = f"rival/{uuid.uuid4().hex}"
        data.seek(0)
        client.upload_fileobj(data, bucket, key)
        return Begun(wait=lambda: client.delete_object(Bucket=bucket, Key=key))

    def with_torch() -> Begun:
        data = io.BytesIO()
        torch.save(_state(made), data)
        return send(data)

    return {
        "torch.save and boto3": with_torch,
        "safetensors and boto3": lambda: send(io.BytesIO(safetensors.torch.save(_flat(made)))),
    }
