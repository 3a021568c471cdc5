"""The reader written from FORMAT.md alone, against ours: on the page's example, on a real folder, on arbitrary logs."""

from __future__ import annotations

import ast
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from ray_workers.store.attempts import create_run, end_attempt, start_attempt
from ray_workers.store.bodies import Retire, Verdict
from ray_workers.store.commit import commit_version
from ray_workers.store.fold_cache import encode_cache
from ray_workers.store.keys import fold_key, log_key
from ray_workers.store.log_reader import LogReader
from ray_workers.store.manifest import Manifest
from ray_workers.store.memory import MemoryStore
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import open_root
from ray_workers.store.run_state import RunState
from tests.support import format_document
from tests.support.format_document import vectors
from tests.support.format_example import RUN, example_objects
from tests.support.log_histories import NAMED, histories, play
from tests.support.log_histories import RUN as HISTORY
from tests.support.stranger import fold as stranger
from tests.support.stranger.log import canonical, load_folder
from tests.support.stranger.log import open_root as stranger_opens
from tests.support.stranger.versions import Content, decode, digest_of, read_version

FOLDER = Path(__file__).parent / "stranger"
TEXT = format_document.read()
FORMATS = {"F32": "f", "U8": "B"}


def as_dict(store: ObjectStore) -> dict[str, bytes]:
    return {info.key: store.get(info.key) for info in store.list("")}


def in_memory(objects: dict[str, bytes]) -> MemoryStore:
    store = MemoryStore()
    for key, data in objects.items():
        store.put(key, data)
    return store


def ours(state: RunState) -> dict[str, Any]:
    return {
        "slot": state.slot,
        "head": state.head,
        "run_id": state.run_id,
        "deleted": state.deleted,
        "open_fence": state.open_fence,
        "highest": state.highest_number,
        "damaged": list(state.damaged),
        "unrepaired": list(state.unrepaired),
        "unknown": list(state.unknown),
        "attempts": {
            a.fence: (a.flow_run_id, a.run_count, a.incarnation, a.outcome, a.last_commit)
            for a in state.attempts.values()
        },
        "versions": {
            v.number: (
                *(v.manifest, v.fence, v.slot, v.step, v.bytes, v.base, v.status, v.abandoned),
                *(v.rung, v.quarantine, v.bad_bytes, set(v.passed)),
            )
            for v in state.versions.values()
        },
        "tags": state.tags,
        "pins": {pin.child_run_id: pin.version for pin in state.pins.values()},
        "protected": set(state.protected()),
    }


def theirs(state: stranger.State) -> dict[str, Any]:
    return {
        "slot": state.slot,
        "head": state.head,
        "run_id": state.run_id,
        "deleted": state.deleted,
        "open_fence": state.open_fence,
        "highest": state.highest_number,
        "damaged": state.damaged,
        "unrepaired": state.unrepaired,
        "unknown": state.unknown,
        "attempts": {
            fence: (a["flow_run_id"], a["run_count"], a["incarnation"], a["outcome"], a["last_commit"])
            for fence, a in state.attempts.items()
        },
        "versions": {
            v.number: (
                *(v.manifest, v.fence, v.slot, v.step, v.bytes, v.base, v.status, v.abandoned),
                *(v.rung, v.quarantine, v.bad_bytes, v.passed),
            )
            for v in state.versions.values()
        },
        "tags": state.tags,
        "pins": state.pins,
        "protected": stranger.protected(state),
    }  # fmt: skip


def both(store: ObjectStore, run: str) -> dict[str, Any]:
    """What both readers find; they must find the same."""
    found = theirs(stranger.fold(as_dict(store), run))
    assert found == ours(LogReader(store, run).fold())
    return found


def test_the_stranger_imports_nothing_of_ours():
    allowed = {*sys.stdlib_module_names, "xxhash"}
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] in allowed or name.startswith(
                    "tests.support.stranger"
                )


# --- the page's own example and vectors -------------------------------------------------------


def values(content: Content) -> dict[str, list[float]]:
    return {
        path: list(
            struct.unpack(f"<{len(t.data) * 8 // {'F32': 32, 'U8': 8}[t.dtype]}{FORMATS[t.dtype]}", t.data)
        )
        for path, t in content.tensors.items()
    }  # fmt: skip


@pytest.mark.parametrize("objects", [format_document.examples(TEXT), example_objects()])
def test_both_readers_find_in_the_example_what_the_page_says(objects):
    expected = vectors(TEXT, "expected")
    found = both(in_memory(objects), RUN)
    assert stranger_opens(objects) == "d6e96faae542b25af592377618221311"
    assert {name: found[name] for name in ("run_id", "open_fence", "tags")} == {
        name: expected[name] for name in ("run_id", "open_fence", "tags")
    }
    assert found["protected"] == set(expected["protected"])
    state = stranger.fold(objects, RUN)
    for version in expected["versions"]:
        mine = state.versions[version["number"]]
        assert {name: getattr(mine, name) for name in version} == version
        assert values(read_version(objects, RUN, mine)) == expected["tensors"]


def test_the_stranger_agrees_with_the_vectors():
    for vector in vectors(TEXT, "digests"):
        data = bytes.fromhex(vector["hex"])
        assert all(digest_of(data, name) == vector[name] for name in ("xxh3-128", "sha256"))
    for vector in vectors(TEXT, "typed"):
        try:
            value = ast.literal_eval(vector["python"])
        except ValueError:
            continue  # only numpy or torch can make it
        found = decode(vector["json"], {})
        assert (found, type(found)) == (value, type(value))
    assert canonical({"b": 1.0, "a": 1e-5}) == b'{"a":1e-05,"b":1.0}'


# --- a store that our code wrote into a folder ------------------------------------------------


def manifest_of(run_id: str, fence: int, step: int) -> Manifest:
    """The example's manifest and shards, as another commit."""
    template = next(data for key, data in example_objects().items() if "/manifests/" in key)
    raw = Manifest.from_bytes(template)
    fields = {name: getattr(raw, name) for name in Manifest.__dataclass_fields__}
    progress = type(raw.progress)(step=step, epoch=0, finished=False)
    return Manifest(
        **{**fields, "run_id": run_id, "fence": fence, "progress": progress, "write_id": str(step)}
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three versions of one attempt: sound and retired, quarantined, and just committed."""
    store = open_root(str(tmp_path / "store"), create=True).store
    for key, data in example_objects().items():
        if "/shards/" in key:
            store.put(key, data)
    log = create_run(store, RUN, by={})
    fence = start_attempt(log, flow_run_id="f", run_count=1)
    for step in (5, 10, 15, 20, 25):
        commit_version(store, log, manifest_of(str(log.state.run_id), fence, step))
    names = {number: version.name for number, version in log.state.versions.items()}
    for check in ("verified", "sound"):
        sound = Verdict(
            versions=tuple(names[n] for n in (1, 2, 4)), check=check, passed=True, checker="c"
        )
        log.append(lambda _, sound=sound: sound)  # type: ignore[misc]
    bad = Verdict(versions=(names[3],), check="sound", passed=False, reason="NaN", checker="c")
    log.append(lambda _: bad)
    log.append(lambda _: Retire(versions=(names[1],)))
    end_attempt(log, fence, "completed")
    return tmp_path / "store"


def test_the_stranger_lists_and_verifies_what_our_code_wrote(folder):
    found = both(open_root(str(folder), create=False).store, RUN)
    assert {number: (v[6], v[8]) for number, v in found["versions"].items()} == {
        1: ("retired", "sound"), 2: ("live", "sound"), 3: ("live", "quarantined"), 4: ("live", "sound"),
        5: ("live", "committed"),
    }  # fmt: skip
    objects = load_folder(folder)
    for version in stranger.fold(objects, RUN).versions.values():
        assert values(read_version(objects, RUN, version)) == vectors(TEXT, "expected")["tensors"]


def test_the_stranger_finds_a_changed_byte_in_any_object(folder):
    sound = load_folder(folder)
    before = stranger.fold(sound, RUN)
    for key, data in sound.items():
        if not key.startswith(f"runs/{RUN}/"):
            continue
        objects = {**sound, key: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]}
        state = stranger.fold(objects, RUN)
        assert theirs(state) == ours(LogReader(in_memory(objects), RUN).fold())
        if "/log/" in key:
            assert state.damaged == [int(key[-25:-5])]
            continue
        hit = [v for v in before.versions.values() if v.manifest in key or "/shards/" in key]
        assert hit
        for version in hit:
            with pytest.raises(ValueError, match="damaged"):
                read_version(objects, RUN, version)


# --- arbitrary logs ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_both_readers_fold_named_logs_alike(name):
    for store in play(NAMED[name]):
        both(store, HISTORY)


@given(histories)
def test_both_readers_fold_any_log_alike(steps):
    for store in play(steps):
        both(store, HISTORY)


def test_both_readers_see_a_lost_end_by_the_cache_above_it():
    store = in_memory(example_objects())
    state = LogReader(store, RUN).fold()
    store.put(fold_key(RUN, state.slot, str(state.head)), encode_cache(state))
    for slot in (6, 7, 8):
        store.delete(log_key(RUN, slot))
    assert both(store, RUN)["damaged"] == [6, 7, 8]
