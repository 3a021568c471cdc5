"""A version's weights for inference or fine-tuning, without Ray, flow or session; every byte verified before it is used.

    from ray_workers.loading import load_into
    model = build()
    load_into(model, "digits@production")

or, without a model at hand, `weights = load("digits@best", names="encoder.*")`.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from typing_extensions import Buffer

from ray_workers.plain_names import plain_state
from ray_workers.planners import SHARED_PREFIX
from ray_workers.shard_reading import empty_tensor, load_tensors
from ray_workers.state_tree import join, split
from ray_workers.store.attempts import read_run
from ray_workers.store.errors import StateMismatchError, VersionGoneError
from ray_workers.store.manifest import Manifest
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import StorageTarget
from ray_workers.store.run_state import VersionState
from ray_workers.store.shards import ShardEntry, read_shard
from ray_workers.store.versions import best_version, find_version, load_manifest, parse_reference

__all__ = ["StoredVersion", "load", "load_into", "model_state", "open_version"]

_MOST_NAMES = 5
_DEFAULT_STORAGE = "./pawl-store"

Tell = Callable[[int, int], None]
"""Told after each shard: bytes read, bytes to read."""


def _silent(_done: int, _total: int) -> None:
    """Nobody asked for progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVersion:
    """One version that can be read now."""

    store: ObjectStore
    run: str
    version: VersionState
    manifest: Manifest

    @property
    def reference(self) -> str:
        return f"{self.run}@{self.version.number}"


def open_version(
    reference: str,
    storage: str | StorageTarget | None = None,
    *,
    metric: str = "loss",
    mode: str = "min",
) -> StoredVersion:
    """Find a version and read its manifest.

    Args:
        reference: `RUN@3`, `RUN@TAG`, `RUN@latest`, `RUN@sound` or `RUN@best`.
        storage: folder, `s3://bucket/prefix`, or a target; default: PAWL_STORAGE, else `./pawl-store`.
        metric: what `RUN@best` goes by.
        mode: `min` when a smaller metric is better, else `max`.

    Raises:
        InvalidInputError, RunNotFoundError, VersionNotFoundError: the reference names no version.
        VersionGoneError: its bytes are not kept any more.
        DamageError: its manifest is damaged.
    """
    run, name = parse_reference(reference)
    if not isinstance(storage, StorageTarget):
        storage = StorageTarget(storage or os.environ.get("PAWL_STORAGE") or _DEFAULT_STORAGE)
    store = storage.open().store
    picker = best_version(store, run, metric=metric, mode=mode)
    version = find_version(read_run(store, run), name, best=picker)
    if not version.readable:
        raise VersionGoneError(
            f"Version {version.number} of run {run!r} is {version.status}: its bytes are not kept any more.",
            number=version.number,
        )
    manifest = load_manifest(store, run, version)
    return StoredVersion(store=store, run=run, version=version, manifest=manifest)


def load(
    reference: str | StoredVersion,
    *,
    storage: str | None = None,
    names: str = "*",
    tell: Tell = _silent,
) -> dict[str, torch.Tensor]:
    """The model's weights and buffers by name, whole, on the CPU, for `model.load_state_dict`.

    Args:
        reference: as for `open_version`, or what it found, as for `RUN@best` by another metric than the loss.
        storage: as for `open_version`.
        names: a pattern such as `encoder.*`; shards that hold nothing of it are not read.
        tell: told how far it is.

    Raises:
        As `open_version`; `StateMismatchError` when nothing has such a name, or the version holds no model.
        DamageError: the stored bytes are not what was written.
    """
    state = model_state(_opened(reference, storage), names=names, tell=tell)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def load_into(
    model: torch.nn.Module,
    reference: str | StoredVersion,
    *,
    storage: str | None = None,
    names: str = "*",
    tell: Tell = _silent,
) -> StoredVersion:
    """Put the stored weights into a live model: plain, DDP or FSDP2, on whatever device, resharded as it asks.

    Args:
        model: whose parameters and buffers are overwritten.
        reference: as for `load`.
        storage: as for `open_version`.
        names: only what has such a name is overwritten, as for a new head on an old body.
        tell: told how far it is.

    Raises:
        As `load`; `StateMismatchError` when a name, type or shape does not fit. Nothing was changed then.
    """
    stored = _opened(reference, storage)
    wanted = {
        name: value
        for name, value in plain_state(model).items()
        if fnmatch.fnmatchcase(name, names) and isinstance(value, torch.Tensor)
    }
    if not wanted:
        raise StateMismatchError(f"The model has no parameter or buffer named like {names!r}.")
    # As they are stored: complex128 as pairs of real numbers.
    template = split(wanted, prefix=f"{SHARED_PREFIX}/model").tensors
    missing = sorted(path for path in template if path not in stored.manifest.tensors)
    if missing:
        more = " …" if len(missing) > _MOST_NAMES else ""
        raise StateMismatchError(
            f"{stored.reference} does not hold {', '.join(missing[:_MOST_NAMES])}{more}: load what fits with a pattern "
            "of names."
        )
    with torch.no_grad():
        load_tensors(template, _only(stored.manifest, template), _reading(stored, template, tell))
    return stored


def _opened(reference: str | StoredVersion, storage: str | None) -> StoredVersion:
    return reference if isinstance(reference, StoredVersion) else open_version(reference, storage)


def model_state(stored: StoredVersion, *, names: str = "*", tell: Tell = _silent) -> dict[str, Any]:
    """The model's part of the stored tree: tensors, and whatever else its `state_dict` held."""
    chosen = {
        name: value for name, value in _model_entries(stored) if fnmatch.fnmatchcase(name, names)
    }
    if not chosen:
        raise StateMismatchError(f"{stored.reference} holds no weights named like {names!r}.")
    paths = {path for value in chosen.values() for path in _texts(value)}
    layouts = {p: stored.manifest.tensors[p] for p in sorted(paths & set(stored.manifest.tensors))}
    tensors = {path: empty_tensor(layout) for path, layout in layouts.items()}
    load_tensors(tensors, _only(stored.manifest, tensors), _reading(stored, tensors, tell))
    return {name: join(value, tensors) for name, value in chosen.items()}


def _only(manifest: Manifest, paths: Iterable[str]) -> Manifest:
    """The manifest as if it held nothing else: a load fills all that a version holds, and this is a part."""
    return replace(manifest, tensors={path: manifest.tensors[path] for path in paths})


def _model_entries(stored: StoredVersion) -> Iterator[tuple[str, Any]]:
    """Name and encoded value of everything in the model's state."""
    model = dict(_children(stored.manifest.plain)).get("model")
    if stored.manifest.payload != "state" or model is None:
        raise StateMismatchError(
            f"{stored.reference} holds no model state: it was handed over as a directory. Its files: pawl export "
            f"{stored.reference} --format files."
        )
    yield from _children(model)


def _children(node: Any) -> list[tuple[str, Any]]:
    """The items of an encoded dict, however it is spelled (`state_tree`)."""
    if not isinstance(node, dict):
        return []
    for marker in ("$map", "$ordered"):
        if marker in node:
            return [(str(key), value) for key, value in node[marker]]
    return list(node.items())


def _texts(node: Any) -> Iterator[str]:
    """Every text in an encoded value; the paths of its tensors are among them."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value)


def _reading(
    stored: StoredVersion, paths: Mapping[str, Any], tell: Tell
) -> Callable[[ShardEntry], Buffer]:
    manifest = stored.manifest
    needed = {chunk.shard for path in paths for chunk in manifest.tensors[path].chunks}
    total, done = sum(manifest.shards[index].bytes for index in needed), 0

    def read(entry: ShardEntry) -> Buffer:
        nonlocal done
        data = read_shard(stored.store, entry)
        done += entry.bytes
        tell(done, total)
        return data

    return read
