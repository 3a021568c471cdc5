"""`RUN@N` as a `ray.train.Checkpoint`, for whoever evaluates or serves a model with Ray's own means."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path

from ray.train import Checkpoint

from ray_workers.directory import write_files
from ray_workers.restoring import ShardCache
from ray_workers.store.attempts import read_run
from ray_workers.store.errors import VersionGoneError
from ray_workers.store.manifest import Manifest
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import StorageTarget
from ray_workers.store.versions import (
    best_version,
    find_version,
    load_manifest,
    parse_reference,
)

__all__ = ["MANIFEST_FILE", "open_checkpoint"]

MANIFEST_FILE = "manifest.json"
_DEFAULT_STORAGE = "./pawl-store"
_log = logging.getLogger("pawl")


def open_checkpoint(
    reference: str, storage: str | None = None, *, metric: str = "loss", mode: str = "min"
) -> Checkpoint:
    """A version as a local directory, every byte verified before it is written there.

    A version that was handed over as a directory gives its files. One that holds training state gives `manifest.json`
    and its shards, `rank-R-shard-I.safetensors`, where I is the index by which the manifest's chunks name the shard.
    The directory is temporary: it goes when this process ends.

    Args:
        reference: `RUN@3`, `RUN@latest`, `RUN@sound` or `RUN@best`.
        storage: folder or `s3://bucket/prefix`; default: PAWL_STORAGE, else `./pawl-store`.
        metric: what `RUN@best` goes by.
        mode: `min` when a smaller metric is better, else `max`.

    Raises:
        InvalidInputError, RunNotFoundError, VersionNotFoundError: the reference names no version.
        VersionGoneError: its bytes are not kept any more.
        DamageError: the stored bytes are not what was written. Nothing of them is handed out.
    """
    run, version = parse_reference(reference)
    store = _target(storage).open().store
    best = best_version(store, run, metric=metric, mode=mode)
    found = find_version(read_run(store, run), version, best=best)
    if not found.readable:
        raise VersionGoneError(
            f"Version {found.number} of run {run!r} is {found.status}: its bytes are not kept any more.",
            number=found.number,
        )
    if found.quarantine is not None:
        _log.warning("%s@%d is quarantined: %s", run, found.number, found.quarantine)
    return _materialise(store, load_manifest(store, run, found))


def _target(storage: str | None) -> StorageTarget:
    return StorageTarget(storage or os.environ.get("PAWL_STORAGE") or _DEFAULT_STORAGE)


def _materialise(store: ObjectStore, manifest: Manifest) -> Checkpoint:
    cache = ShardCache(store)
    for entry in manifest.shards:
        cache.read(entry)  # the last shard may be the bad one: all of them before the first file
    folder = Path(tempfile.mkdtemp(prefix="pawl-checkpoint-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if manifest.payload == "files":
        write_files(manifest, cache.read, folder)
    else:
        _write_state(manifest, cache, folder)
    return Checkpoint.from_directory(str(folder))


def _write_state(manifest: Manifest, cache: ShardCache, folder: Path) -> None:
    (folder / MANIFEST_FILE).write_bytes(manifest.to_bytes())
    for index, entry in enumerate(manifest.shards):
        (folder / f"rank-{entry.rank}-shard-{index}.safetensors").write_bytes(cache.read(entry))
