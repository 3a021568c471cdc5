"""What the registry says of one version: what the log knows, which changes, and what its manifest says, which does not.

Values are plain, under the column names of docs/registry.md. Reads only; needs no table library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ray_workers.store.catalog import VersionCatalog, VersionEntry, attempt_numbers
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.present_line import present_line
from ray_workers.store.run_state import RunState
from ray_workers.store.strict_json import encode_float

__all__ = ["FACTS_COLUMNS", "typed_values", "version_facts", "version_row", "version_rows_of"]

FACTS_COLUMNS = (
    "epoch", "epochs_wanted", "finished", "payload", "parent_run", "parent", "world_size", "tensors", "shards",
    "bytes_new", "staging_s", "upload_s", "code_version", "python", "torch", "numpy", "ray", "pawl",
    "metrics_json", "config_json", "durations_json", "environment_json",
)  # fmt: skip
"""Columns from the manifest: fixed for ever once the version is committed."""

_LIBRARIES = ("python", "torch", "numpy", "ray", "pawl")
_MAX_DEPTH = 8

Known = Callable[[str], Mapping[str, Any] | None]
"""The facts known of a manifest, by its digest."""


def version_rows_of(store: ObjectStore, state: RunState, known: Known) -> Iterator[dict[str, Any]]:
    """A row for every version of the run, oldest first; only manifests that are not `known` are read."""
    unknown = [n for n, v in state.versions.items() if known(v.manifest) is None]
    catalog = VersionCatalog(store, state.run)
    entries = {entry.version.number: entry for entry in catalog.entries(state, unknown)}
    numbers = attempt_numbers(state)
    facts = {
        number: known(version.manifest) or version_facts(entries[number])
        for number, version in sorted(state.versions.items())
    }
    line = set(present_line(state, dict(_parents(state.run, facts))))
    for number, found in facts.items():
        row = version_row(state, number, numbers[state.versions[number].fence])
        yield {**row, "current": number in line, **found}


def _parents(run: str, facts: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[int, int | None]]:
    for number, found in facts.items():
        if found["payload"] is not None:
            yield number, found["parent"] if found["parent_run"] == run else None


def version_row(state: RunState, number: int, attempt_number: int) -> dict[str, Any]:
    """The columns that the log alone gives."""
    version = state.versions[number]
    attempt, origin = state.attempts.get(version.fence), state.origin
    kept = version.readable
    return {
        "run": state.run,
        "run_id": state.run_id,
        "number": number,
        "step": version.step,
        "rung": version.rung,
        "reason": version.quarantine,
        "status": "abandoned" if kept and version.abandoned else version.status,
        "tags": sorted(tag for tag, tagged in state.tags.items() if tagged == number),
        "bytes": version.bytes,
        "committed_at": version.at,
        "attempt": attempt_number,
        "fence": version.fence,
        "flow_run_id": None if attempt is None else attempt.flow_run_id,
        "run_count": None if attempt is None else attempt.run_count,
        "host": None if attempt is None else str(attempt.by.get("host", "")) or None,
        "forked_from": None if origin is None else f"{origin.run}@{origin.version.number}",
        "manifest": version.manifest,
        "commit_slot": version.slot,
        "log_slot": state.slot,
    }


def version_facts(entry: VersionEntry) -> dict[str, Any]:
    """The columns of the manifest; all None if it cannot be used."""
    facts = entry.facts
    if facts is None:
        return dict.fromkeys(FACTS_COLUMNS)
    parent = facts.parent
    return {
        "epoch": facts.progress.epoch,
        "epochs_wanted": facts.progress.epochs_wanted,
        "finished": facts.progress.finished,
        "payload": facts.payload,
        "parent_run": None if parent is None else parent.run or entry.run,
        "parent": None if parent is None else parent.number,
        "world_size": facts.world_size,
        "tensors": facts.tensors,
        "shards": len(facts.shards),
        "bytes_new": entry.bytes_new,
        "staging_s": facts.durations.get("staging_s"),
        "upload_s": facts.durations.get("upload_s"),
        "code_version": facts.environment.get("code") or None,
        **{name: facts.environment.get(name) for name in _LIBRARIES},
        "metrics_json": _json(_floats(facts.metrics)),
        "config_json": _json(facts.config),
        "durations_json": _json(_floats(facts.durations)),
        "environment_json": _json(dict(facts.environment)),
    }


def typed_values(row: Mapping[str, Any]) -> Iterator[tuple[str, float | str]]:
    """The typed columns of a row: `metrics.NAME` and `config.NAME` are numbers, `config_text.NAME` is text.

    A column name fixes its type, so that files of any two runs can be put together.
    """
    for name, value in json.loads(row["metrics_json"] or "{}").items():
        yield f"metrics.{name}", _number(value)
    for path, value in _leaves(json.loads(row["config_json"] or "{}"), "", 0):
        if isinstance(value, bool | int | float):
            yield f"config.{path}", _finite_or_infinite(value)
        elif isinstance(value, str):
            yield f"config_text.{path}", value


def _leaves(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and depth < _MAX_DEPTH:
        for name, item in value.items():
            yield from _leaves(item, f"{path}.{name}" if path else name, depth + 1)
    else:
        yield path, value


def _finite_or_infinite(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf if value > 0 else -math.inf


def _number(value: Any) -> float:
    return float(value["$float"]) if isinstance(value, dict) else float(value)


def _floats(values: Mapping[str, float]) -> dict[str, Any]:
    return {name: encode_float(value) for name, value in values.items()}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
