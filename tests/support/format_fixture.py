"""Stores of each format, kept as bytes, and what this program must still read from them.

    python -m tests.support.format_fixture tests/ray_workers/formats/NAME.zip

makes one of the present format; never over one that is there, for it could not be made again. The archive holds the
store, and what was read from it on the day it was made.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ray_workers.directory import write_files
from ray_workers.shard_reading import read_tensors
from ray_workers.store.attempts import read_run
from ray_workers.store.catalog import VersionFacts
from ray_workers.store.errors import DamageError
from ray_workers.store.log_reader import LogReader
from ray_workers.store.manifest import Manifest
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import open_root
from ray_workers.store.records import Record, canonical_json
from ray_workers.store.run_listing import list_runs
from ray_workers.store.run_state import RunState, VersionState
from ray_workers.store.shards import read_shard
from ray_workers.store.versions import load_manifest
from tests.support.format_runs import make_runs

__all__ = ["describe", "expected", "main", "record_kinds", "unpack"]

_EXPECTED = "expected.json"
_STORE = "store/"


def main(arguments: Sequence[str]) -> int:
    """Make one fixture; the exit status."""
    archive = Path(*arguments)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make_runs(folder)
        told = describe(open_root(str(folder / "store"), create=False).store)
        with zipfile.ZipFile(archive, "x", zipfile.ZIP_DEFLATED) as out:
            out.writestr(_EXPECTED, json.dumps(told, indent=1, sort_keys=True))
            for path in sorted((folder / "store").rglob("*")):
                if path.is_file():
                    out.write(path, path.relative_to(folder).as_posix())
    sys.stdout.write(f"{archive}: {archive.stat().st_size:,} bytes\n")
    return 0


def unpack(archive: Path, into: Path) -> Path:
    """The store of a fixture, as files; its folder."""
    with zipfile.ZipFile(archive) as found:
        found.extractall(into, [name for name in found.namelist() if name.startswith(_STORE)])
    return into / _STORE


def expected(archive: Path) -> dict[str, Any]:
    with zipfile.ZipFile(archive) as found:
        told: dict[str, Any] = json.loads(found.read(_EXPECTED))
    return told


def describe(store: ObjectStore) -> dict[str, Any]:
    """All that a reader finds in a store, in words that no later format changes."""
    return {entry.run: _run(store, entry.run) for entry in list_runs(store)}


def record_kinds(store: ObjectStore) -> set[str]:
    """Every kind of record that takes its slot in some log."""
    kinds = set()
    for run in (entry.run for entry in list_runs(store)):
        slots = LogReader(store, run).read_many(range(1, read_run(store, run).slot + 1))
        kinds |= {slot.kind for slot in slots if isinstance(slot, Record)}
    return kinds


def _run(store: ObjectStore, run: str) -> dict[str, Any]:
    state = LogReader(store, run).fold(use_cache=False)
    origin = state.origin
    return {
        "run_id": state.run_id,
        "slots": state.slot,
        "head": state.head,
        "deleted": state.deleted,
        "open_fence": state.open_fence,
        "damaged": list(state.damaged),
        "unrepaired": list(state.unrepaired),
        "tags": dict(state.tags),
        "pinned": sorted(pin.version for pin in state.pins.values()),
        "protected": sorted(state.protected()),
        "origin": None if origin is None else f"{origin.run}@{origin.version.number}",
        "attempts": _attempts(state),
        "versions": {
            str(number): _version(store, run, version)
            for number, version in sorted(state.versions.items())
        },
    }


def _attempts(state: RunState) -> list[dict[str, Any]]:
    return [
        {
            "fence": attempt.fence,
            "flow_run_id": attempt.flow_run_id,
            "run_count": attempt.run_count,
            "outcome": attempt.outcome,
            "resume": None if attempt.resume is None else attempt.resume.number,
            "passed_over": {str(p.version.number): p.reason for p in attempt.passed_over},
        }
        for _, attempt in sorted(state.attempts.items())
    ]


def _version(store: ObjectStore, run: str, version: VersionState) -> dict[str, Any]:
    told = {
        "manifest": version.manifest,
        "step": version.step,
        "bytes": version.bytes,
        "base": version.base,
        "status": version.status,
        "rung": version.rung,
        "abandoned": version.abandoned,
        "quarantine": version.quarantine,
    }
    return told | ({"content": _content(store, run, version)} if version.readable else {})


def _content(store: ObjectStore, run: str, version: VersionState) -> dict[str, Any]:
    """Digests of all that would be restored; of bytes that rotted, that they did."""
    manifest = load_manifest(store, run, version)
    told = {
        "world_size": manifest.world_size,
        "parent": None if manifest.parent is None else manifest.parent.number,
        "interrupted": VersionFacts.of(manifest).interrupted,
        "plain": _digest(canonical_json([manifest.plain, list(manifest.rank_plain)])),
        "config": dict(manifest.config),
        "metrics": {name: repr(value) for name, value in manifest.metrics.items()},
    }
    try:
        if manifest.files:
            return {**told, "files": _files(store, manifest)}
        tensors: dict[str, torch.Tensor] = {}
        for prefix in sorted({path.partition("/")[0] for path in manifest.tensors}):
            tensors |= read_tensors(manifest, lambda entry: read_shard(store, entry), prefix=prefix)
    except DamageError as error:
        return {**told, "damaged": error.kind}
    found = {
        name: f"{tensor.dtype} {list(tensor.shape)} {_digest(tensor.contiguous().numpy().tobytes())}"
        for name, tensor in sorted(tensors.items())
    }
    return {**told, "tensors": found}


def _files(store: ObjectStore, manifest: Manifest) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        write_files(manifest, lambda entry: read_shard(store, entry), Path(folder))
        return {
            file.path: _digest((Path(folder) / file.path).read_bytes()) for file in manifest.files
        }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
