"""The second kind of payload: a whole checkpoint directory, each file the bytes of one U8 tensor in a shard."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typing_extensions import Buffer

from ray_workers.messages import StagedFile
from ray_workers.rank_content import RankContent
from ray_workers.store.errors import InvalidInputError, MalformedObjectError
from ray_workers.store.manifest import Manifest
from ray_workers.store.shards import ShardEntry, data_start, parse_header

__all__ = ["pack_directory", "unpack_directory", "write_files"]


def pack_directory(source: Any | None, *, rank: int, metrics: Mapping[str, float]) -> RankContent:
    """One rank's files as the content of a version.

    Args:
        source: a `ray.train.Checkpoint`, a path, or None for a rank without files.
        rank: whose they are.
        metrics: stored with the version, from rank 0.
    """
    with ExitStack() as stack:
        folder = _local_folder(source, stack)
        files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder is not None else []
        tensors: dict[str, torch.Tensor] = {}
        staged = []
        for path in files:
            relative = path.relative_to(folder).as_posix() if folder is not None else path.name
            name = f"rank/{rank}/files/{relative}"
            content = np.fromfile(path, dtype=np.uint8)
            tensors[name] = torch.from_numpy(content)
            staged.append(StagedFile(path=relative, name=name, bytes=content.nbytes))
    lead = rank == 0
    return RankContent(
        tensors=tensors, files=tuple(staged), payload="files", metrics=dict(metrics) if lead else {}
    )


def unpack_directory(manifest: Manifest, read: Callable[[ShardEntry], Buffer]) -> Path:
    """Write the version's files into a new temporary folder, removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="pawl-restored-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_files(manifest, read, folder)
    return folder


def write_files(manifest: Manifest, read: Callable[[ShardEntry], Buffer], folder: Path) -> None:
    """Write the files of a verified `files` version below `folder`; a path cannot leave it (checked by `FileEntry`)."""
    for index, entry in enumerate(manifest.shards):
        shard = memoryview(read(entry))
        table = {tensor.name: tensor for tensor in parse_header(shard, key=entry.key)}
        start = data_start(shard, key=entry.key)
        for file in (f for f in manifest.files if f.shard == index):
            tensor = table.get(file.name)
            if tensor is None:
                raise MalformedObjectError(
                    f"{entry.key} does not hold {file.name!r:.200}, which the manifest says of it.",
                    key=entry.key,
                )
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(shard[start + tensor.offset :][: tensor.nbytes])


def _local_folder(source: Any | None, stack: ExitStack) -> Path | None:
    if source is None:
        return None
    if hasattr(source, "as_directory"):
        return Path(stack.enter_context(source.as_directory()))
    folder = Path(source)
    if not folder.is_dir():
        raise InvalidInputError(f"The checkpoint directory {folder} does not exist.")
    return folder
