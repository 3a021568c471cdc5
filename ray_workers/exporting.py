"""A version's weights as files that need no Pawl: safetensors, torch, Hugging Face's layout, DCP.

torch's format is pickle: it is written on request and never read here.
"""

from __future__ import annotations

import json
import shutil
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from typing_extensions import Buffer

from ray_workers.directory import write_files
from ray_workers.loading import StoredVersion, Tell, model_state
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.shards import ShardEntry, read_shard
from ray_workers.store.strict_json import encode_float

__all__ = ["ABOUT_FILE", "FORMATS", "Exported", "export_version"]

ABOUT_FILE = "pawl-version.json"
FORMATS = ("safetensors", "torch", "hf", "dcp", "files")
_LARGEST_FILE = 5_000_000_000
"""Bytes of one file of the Hugging Face layout."""

_Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    folder: Path
    files: tuple[str, ...]
    bytes: int
    left_out: tuple[str, ...]
    """What the model's state holds besides tensors, and the format cannot."""


def export_version(
    stored: StoredVersion,
    folder: Path,
    kind: str,
    *,
    names: str = "*",
    largest_file: int = _LARGEST_FILE,
    tell: Tell = lambda _done, _total: None,
) -> Exported:
    """Write the version into a new folder; it appears whole or not at all.

    Args:
        stored: what to export.
        folder: must not exist, or be empty.
        kind: one of `FORMATS`.
        names: only what has such a name.
        largest_file: bytes after which the Hugging Face layout begins another file.
        tell: told how far the reading is.

    Raises:
        InvalidInputError: the folder is taken, or the version cannot be had in this format.
        StateMismatchError, DamageError: as `loading.model_state`.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInputError(f"{folder} is not empty: choose a folder that does not exist yet.")
    if (kind == "files") != (stored.manifest.payload == "files"):
        right = "files" if stored.manifest.payload == "files" else "safetensors, torch, hf or dcp"
        raise InvalidInputError(f"{stored.reference} can be exported as {right}, not as {kind}.")
    unfinished = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    unfinished.mkdir(parents=True)
    try:
        left_out = _write(stored, unfinished, kind, names, largest_file, tell)
        (unfinished / ABOUT_FILE).write_text(json.dumps(_about(stored, names), indent=2) + "\n")
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return Exported(
        folder=folder,
        files=tuple(path.relative_to(folder).as_posix() for path in found),
        bytes=sum(path.stat().st_size for path in found),
        left_out=left_out,
    )


def _write(
    stored: StoredVersion, folder: Path, kind: str, names: str, largest_file: int, tell: Tell
) -> tuple[str, ...]:
    if kind == "files":
        write_files(stored.manifest, _telling(stored, tell), folder)
        return ()
    state = model_state(stored, names=names, tell=tell)
    if kind == "torch":
        torch.save(state, folder / "model.pt")
        return ()
    weights = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if kind == "dcp":
        _write_dcp(weights, folder)
    elif kind == "hf":
        _write_hf(weights, folder, largest_file)
    else:
        save_file(weights, folder / "model.safetensors", metadata=_metadata(stored))
    return tuple(sorted(set(state) - set(weights)))


def _telling(stored: StoredVersion, tell: Tell) -> Callable[[ShardEntry], Buffer]:
    total, done = sum(entry.bytes for entry in stored.manifest.shards), 0

    def read(entry: ShardEntry) -> Buffer:
        nonlocal done
        data = read_shard(stored.store, entry)
        done += entry.bytes
        tell(done, total)
        return data

    return read


def _write_dcp(weights: _Weights, folder: Path) -> None:
    from torch.distributed.checkpoint.state_dict_saver import save  # noqa: PLC0415 - a second to import

    with warnings.catch_warnings():
        # It warns that one process alone saves, as it was told.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        save(dict(weights), checkpoint_id=str(folder), no_dist=True)


def _write_hf(weights: _Weights, folder: Path, largest_file: int) -> None:
    """`model.safetensors`, or numbered files and their index, as `from_pretrained` looks for them."""
    parts = _parts(weights, largest_file)
    if len(parts) == 1:
        save_file(parts[0], folder / "model.safetensors", metadata={"format": "pt"})
        return
    places: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _parts(weights: _Weights, largest_file: int) -> list[dict[str, torch.Tensor]]:
    parts: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in weights.items():
        if parts[-1] and size + tensor.nbytes > largest_file:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    return parts


def _metadata(stored: StoredVersion) -> dict[str, str]:
    return {"format": "pt", "pawl": stored.reference, "manifest": stored.version.manifest}


def _about(stored: StoredVersion, names: str) -> dict[str, Any]:
    manifest = stored.manifest
    return {
        "run": stored.run,
        "number": stored.version.number,
        "manifest": stored.version.manifest,
        "rung": stored.version.rung,
        "step": manifest.progress.step,
        "epoch": manifest.progress.epoch,
        "metrics": {name: encode_float(value) for name, value in manifest.metrics.items()},
        "config": dict(manifest.config),
        "environment": dict(manifest.environment),
        "names": names,
    }
