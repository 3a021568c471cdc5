"""What reads bytes that somebody else wrote, each as one function that may only return or raise an error of ours.

An error of another type, or one that never ends, is a finding. The same functions are played by Hypothesis in the tests
and, for as long as one likes, by `make fuzz`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.report_builder import build_report
from ray_workers.resume import choose
from ray_workers.state_join import join
from ray_workers.store import keys
from ray_workers.store.attempts import create_run, end_attempt, read_run, roll_back, start_attempt
from ray_workers.store.audit import audit_run
from ray_workers.store.bodies import Retire
from ray_workers.store.catalog import version_rows
from ray_workers.store.errors import (
    ConflictError,
    PawlError,
    RefusedError,
    VersionNotFoundError,
)
from ray_workers.store.fold_cache import decode_cache, encode_cache
from ray_workers.store.log_reader import LogReader
from ray_workers.store.manifest import Manifest, check_coverage
from ray_workers.store.memory import MemoryStore
from ray_workers.store.opening import _parse_root
from ray_workers.store.records import Record, canonical_json
from ray_workers.store.repair import plan_repair
from ray_workers.store.run_listing import list_runs
from ray_workers.store.shards import parse_header
from ray_workers.store.strict_json import parse_json
from ray_workers.store.sweep import plan_sweep
from tests.support.factories import MadeUpRun

__all__ = [
    "PARSERS",
    "RUN",
    "example_objects",
    "play_cache",
    "play_log",
    "play_store",
    "resealed",
    "store_of",
]

RUN = "digits"
_ROOT = b'{"format":1,"kind":"memory","root_id":"d6e96faae542b25af592377618221311"}'


@functools.cache
def example_objects() -> Mapping[str, bytes]:
    """A small run in which everything happened once, with a fold cache of its end."""
    store = MemoryStore()
    made = MadeUpRun(store=store, name=RUN, ranks=2)
    made.start()
    for step in (10, 20, 30):
        made.commit(step, config={"lr": 0.1, "layers": [1, {"a": None}]})
    made.judge(2, check="sound")
    made.judge(3, reason="NaN in layer 1")
    made.tag("best", 2)
    end_attempt(made.log, made.fence, "failed", "a reason")
    made.start(2, passed_over={3: "quarantined"})
    made.commit(25)
    made.append(Retire(versions=(made.version(1).name,)))
    roll_back(made.log, made.version(2).name)
    made.fork(2, "child")
    state = read_run(store, RUN)
    assert state.head is not None
    store.put(keys.fold_key(RUN, state.slot, state.head), encode_cache(state))
    return {info.key: store.get(info.key) for info in store.list("")}


def store_of(objects: Mapping[str, bytes]) -> MemoryStore:
    store = MemoryStore()
    for key, data in objects.items():
        store.put(key, data)
    return store


def resealed(value: Any) -> bytes:
    """A sealed object as somebody would write it who can write: with a digest that holds. Raises `ValueError`."""
    if not isinstance(value, dict):
        return canonical_json(value)
    rest = {name: item for name, item in value.items() if name != "digest"}
    return canonical_json({**rest, "digest": hashlib.sha256(canonical_json(rest)).hexdigest()})


# --- one object ------------------------------------------------------------------------------------------------------


def _strict_json(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_json(data, limit=1 << 20)


def _record(data: bytes) -> None:
    with contextlib.suppress(PawlError):
        record = Record.from_bytes(data, key="log/1", slot=1)
        assert Record.from_bytes(record.to_bytes(), key="log/1", slot=1) == record


def _manifest(data: bytes) -> None:
    with contextlib.suppress(PawlError):
        manifest = Manifest.from_bytes(data)
        assert manifest.to_bytes() == data
        check_coverage(manifest)
        join(manifest.plain, {})


def _shard(data: bytes) -> None:
    with contextlib.suppress(PawlError):
        tensors = parse_header(data)
        assert all(t.offset + t.nbytes <= len(data) for t in tensors)


def _root(data: bytes) -> None:
    with contextlib.suppress(PawlError):
        _parse_root(data, "memory://here")


def _made_right(
    data: bytes, spell: Callable[[Any], bytes], target: Callable[[bytes], None]
) -> None:
    """The same values with a digest, or a spelling, that holds: what somebody would write who can write."""
    try:
        spelled = spell(json.loads(data))
    except (ValueError, RecursionError):
        return  # it cannot even be spelled
    target(spelled)


def _sealed_record(data: bytes) -> None:
    _made_right(data, resealed, _record)


def _canonical_manifest(data: bytes) -> None:
    _made_right(data, canonical_json, _manifest)


def _sealed_cache(data: bytes) -> None:
    _made_right(data, resealed, _cache)


def _cache(data: bytes) -> None:
    named = keys.parse_fold_key(_cache_key()) or (0, "")
    with contextlib.suppress(ValueError):
        decode_cache(data, run=RUN, slot=named[0], head=named[1])


PARSERS: dict[str, tuple[Callable[[bytes], None], Callable[[], bytes]]] = {
    "strict JSON": (_strict_json, lambda: b'{"a":[1,2.5,{"b":null}],"c":"d"}'),
    "record": (_record, lambda: example_objects()[keys.log_key(RUN, 3)]),
    "manifest": (_manifest, lambda: _first("/manifests/")),
    "shard header": (_shard, lambda: _first("/shards/")),
    "root": (_root, lambda: _ROOT),
    "sealed record": (_sealed_record, lambda: example_objects()[keys.log_key(RUN, 6)]),
    "canonical manifest": (_canonical_manifest, lambda: _first("/manifests/")),
    "sealed cache": (_sealed_cache, lambda: example_objects()[_cache_key()]),
}
"""By name: what reads the bytes, and valid ones to begin from."""


def _cache_key() -> str:
    return next(key for key in example_objects() if "/folds/" in key)


def _first(part: str) -> bytes:
    return next(data for key, data in sorted(example_objects().items()) if part in key)


# --- several objects -------------------------------------------------------------------------------------------------


def play_cache(data: bytes) -> None:
    """A fold cache of the last slot but one: whatever it says, the run is read as without it, and never an error."""
    objects = dict(example_objects())
    objects[_cache_key()] = data
    store = store_of(objects)
    raw, cached = LogReader(store, RUN).fold(use_cache=False), LogReader(store, RUN).fold()
    assert (cached.slot, cached.head) == (raw.slot, raw.head)
    _read_everything(store)


def play_log(slot: int, envelope: Any) -> None:
    """A record that an attacker sealed, in the middle of a log: the run can still be read, written to and resumed."""
    objects = dict(example_objects())
    try:
        objects[keys.log_key(RUN, slot)] = resealed(envelope)
    except (ValueError, RecursionError):
        return  # it cannot even be spelled
    del objects[_cache_key()]
    store = store_of(objects)
    LogReader(store, RUN).fold()
    _read_everything(store)
    _go_on(store)


def play_store(objects: Mapping[str, bytes]) -> None:
    """Objects with any bytes under any keys of a root."""
    store = store_of(objects)
    _read_everything(store)
    _go_on(store)


def _read_everything(store: MemoryStore) -> None:
    for look in (
        lambda: json.dumps([entry.to_json() for entry in list_runs(store)]),
        lambda: json.dumps([entry.to_json() for entry in version_rows(store, RUN)]),
        lambda: json.dumps(audit_run(store, RUN).to_json()),
        lambda: json.dumps(plan_sweep(store, RUN).to_json()),
        lambda: json.dumps(plan_repair(store, RUN).to_json()),
        lambda: build_report(store, RUN),
    ):
        with contextlib.suppress(PawlError):
            look()


def _go_on(store: MemoryStore) -> None:
    """A new attempt; what may stop it is a rule, what a newer Pawl wrote, or a fork's origin that is gone, and no damage."""
    with contextlib.suppress(ConflictError, RefusedError, VersionNotFoundError):
        log = create_run(store, RUN, by={})
        fence = start_attempt(log, flow_run_id="next", run_count=1)
        choose(store, log, fence, required="sound", policy=SoundnessPolicy())
