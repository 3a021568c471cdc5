"""The registry: every version of every run as one Parquet dataset, derived from the logs (docs/registry.md).

One file a run, replaced as a whole: `registry/versions/<run>.parquet`. It is a view. Nothing reads it to decide
anything about a run, whoever may write the store may rebuild it, and it can be deleted at any time. A reader never sees
half a file, because a put replaces an object at once. Of two writers at once the one that had read more of the log writes
again when it finds the other's file; should the other still be last, the next refresh mends it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ray_workers.store.attempts import read_run, run_names
from ray_workers.store.errors import (
    DamageError,
    InvalidInputError,
    ObjectNotFoundError,
    RunNotFoundError,
)
from ray_workers.store.keys import check_run_name
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.registry_rows import FACTS_COLUMNS, typed_values, version_rows_of

__all__ = [
    "REGISTRY_PREFIX",
    "SCHEMA",
    "Refreshed",
    "drop_lost",
    "encode",
    "read_registry",
    "refresh_all",
    "refresh_run",
    "registry_key",
]

REGISTRY_PREFIX = "registry/versions/"
REGISTRY_FORMAT = 2

_READERS = 16
_RUNS_AT_ONCE = 8
"""Fewer than readers: each may hold a manifest of its run."""
_TRIES = 5
_TEXT, _WHOLE, _REAL = pa.string(), pa.int64(), pa.float64()

SCHEMA = pa.schema(
    [
        ("run", _TEXT), ("run_id", _TEXT), ("number", _WHOLE), ("step", _WHOLE), ("rung", _TEXT), ("reason", _TEXT),
        ("status", _TEXT), ("tags", pa.list_(_TEXT)), ("bytes", _WHOLE), ("committed_at", pa.timestamp("us", tz="UTC")),
        ("attempt", _WHOLE), ("fence", _WHOLE), ("flow_run_id", _TEXT), ("run_count", _WHOLE), ("host", _TEXT),
        ("forked_from", _TEXT), ("manifest", _TEXT), ("commit_slot", _WHOLE), ("log_slot", _WHOLE),
        ("current", pa.bool_()),
        ("epoch", _WHOLE), ("epochs_wanted", _WHOLE), ("finished", pa.bool_()), ("payload", _TEXT),
        ("parent_run", _TEXT), ("parent", _WHOLE), ("world_size", _WHOLE), ("tensors", _WHOLE), ("shards", _WHOLE),
        ("bytes_new", _WHOLE), ("staging_s", _REAL), ("upload_s", _REAL), ("code_version", _TEXT), ("python", _TEXT),
        ("torch", _TEXT), ("numpy", _TEXT), ("ray", _TEXT), ("pawl", _TEXT),
        ("metrics_json", _TEXT), ("config_json", _TEXT), ("durations_json", _TEXT), ("environment_json", _TEXT),
    ]
)  # fmt: skip
"""The columns that every file has, in this order; the typed ones follow, sorted by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What became of one run's file."""

    run: str
    versions: int
    written: bool
    """False: the file said all this already, or `problem` says why it could not."""
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def registry_key(run: str) -> str:
    return f"{REGISTRY_PREFIX}{check_run_name(run)}.parquet"


def refresh_run(store: ObjectStore, run: str, *, anew: bool = False) -> Refreshed:
    """Bring one run's file up to its log. Only manifests that the file does not know yet are read.

    Args:
        store: where the run lives.
        run: its name.
        anew: take nothing from the file that is there.

    Raises:
        RunNotFoundError: there is no such run.
        StoreUnavailableError, StoreRefusedError: the store does not let us read or write.
    """
    versions = 0
    for _ in range(_TRIES):
        state = read_run(store, run)
        there = None if anew else _read_file(store, registry_key(run))
        if there is not None and _covers(there, state.run_id, state.slot):
            return Refreshed(run=run, versions=there.num_rows, written=False)
        rows = list(version_rows_of(store, state, _known(there)))
        versions = len(rows)
        store.put(registry_key(run), encode(rows, run_id=str(state.run_id), slot=state.slot))
        # A writer that had read less of the log may have replaced our file meanwhile: then once more.
        after = _read_file(store, registry_key(run))
        if after is not None and _covers(after, state.run_id, state.slot):
            break
    return Refreshed(run=run, versions=versions, written=True)


def refresh_all(
    store: ObjectStore, *, anew: bool = False, tell: Callable[[str], None] = lambda _: None
) -> tuple[Refreshed, ...]:
    """`refresh_run` for every run below the root, several at once; one that cannot be read is named with its problem."""

    def refreshed(run: str) -> Refreshed:
        try:
            return refresh_run(store, run, anew=anew)
        except (DamageError, InvalidInputError, RunNotFoundError) as error:
            return Refreshed(run=run, versions=0, written=False, problem=error.message)

    done = []
    with ThreadPoolExecutor(_RUNS_AT_ONCE) as pool:
        for item in pool.map(refreshed, run_names(store)):
            tell(f"read {item.run}")
            done.append(item)
    return tuple(done)


def drop_lost(store: ObjectStore) -> tuple[str, ...]:
    """Delete the files of runs that are not below the root any more; the names of these runs.

    A deleted run keeps its log, and so its file; this is for runs whose folder somebody took away.

    Raises:
        StoreUnavailableError, StoreRefusedError: the store does not let us list or delete.
    """
    # Files first: a run that begins meanwhile has none among these.
    keys = [info.key for info in store.list(REGISTRY_PREFIX) if info.key.endswith(".parquet")]
    present = {f"{REGISTRY_PREFIX}{run}.parquet" for run in run_names(store)}
    lost = sorted(set(keys) - present)
    for key in lost:
        store.delete(key)
    return tuple(key.removeprefix(REGISTRY_PREFIX).removesuffix(".parquet") for key in lost)


def read_registry(store: ObjectStore) -> pa.Table:
    """The whole registry as one table, with every typed column that any run has; damaged files are left out."""
    found = [info.key for info in store.list(REGISTRY_PREFIX) if info.key.endswith(".parquet")]
    with ThreadPoolExecutor(_READERS) as pool:
        tables = [table for table in pool.map(lambda key: _read_file(store, key), found) if table]
    if not tables:
        return SCHEMA.empty_table()
    return pa.concat_tables(
        [table.replace_schema_metadata(None) for table in tables], promote_options="default"
    )


def encode(rows: Sequence[Mapping[str, Any]], *, run_id: str, slot: int) -> bytes:
    """The bytes of one run's file."""
    typed = [dict(typed_values(row)) for row in rows]
    names = sorted({name for values in typed for name in values})
    columns = [pa.array(_column(rows, field), field.type) for field in SCHEMA]
    kinds = [_TEXT if name.startswith("config_text.") else _REAL for name in names]
    columns += [
        pa.array([values.get(name) for values in typed], kind)
        for name, kind in zip(names, kinds, strict=True)
    ]
    extra = [pa.field(name, kind) for name, kind in zip(names, kinds, strict=True)]
    about = {"pawl": json.dumps({"format": REGISTRY_FORMAT, "run_id": run_id, "log_slot": slot})}
    schema = pa.schema([*SCHEMA, *extra], metadata=about)
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def _column(rows: Iterable[Mapping[str, Any]], field: pa.Field) -> list[Any]:
    values = [row[field.name] for row in rows]
    return [_instant(value) for value in values] if field.name == "committed_at" else values


def _instant(value: object) -> datetime | None:
    try:
        return value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        return None


def _read_file(store: ObjectStore, key: str) -> pa.Table | None:
    """The file, or None when it is absent, damaged, or of another format: it can always be made again."""
    try:
        table = pq.read_table(pa.BufferReader(store.get(key)), partitioning=None)
        about = json.loads(table.schema.metadata[b"pawl"])
        right = (
            about["format"] == REGISTRY_FORMAT and table.schema.names[: len(SCHEMA)] == SCHEMA.names
        )
    except (ObjectNotFoundError, pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None
    return table if right else None


def _covers(table: pa.Table, run_id: str | None, slot: int) -> bool:
    about = json.loads(table.schema.metadata[b"pawl"])
    return bool(about["run_id"] == run_id and about["log_slot"] >= slot)


def _known(table: pa.Table | None) -> Callable[[str], Mapping[str, Any] | None]:
    if table is None:
        return lambda _: None
    rows = table.select(["manifest", *FACTS_COLUMNS]).to_pylist()
    facts = {row.pop("manifest"): row for row in rows}
    # Without a payload the manifest could not be read then: it may be readable now.
    return lambda digest: f if (f := facts.get(digest)) and f["payload"] is not None else None
