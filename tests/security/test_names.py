"""No name, digest, tag or path leads out of the root, whoever wrote it."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_workers.directory import write_files
from ray_workers.store import keys
from ray_workers.store.bodies import VersionName
from ray_workers.store.errors import DamageError, InvalidInputError, PawlError
from ray_workers.store.local_folder import LocalFolderStore
from ray_workers.store.manifest import FileEntry, Manifest, Progress, check_coverage
from ray_workers.store.memory import MemoryStore
from ray_workers.store.shards import ShardEntry, arrange, build_header
from ray_workers.store.tags import move_tag
from ray_workers.store.versions import parse_reference
from tests.support.factories import MadeUpRun

_PIECES = st.sampled_from(
    ["..", ".", "/", "\\", "~", "a", "runs", "%2e", "\0", "\n", " ", "ä", "C:", ".pawl-tmp-", "\u2024", "\uff0e"]
)  # fmt: skip
NAMES = st.one_of(st.lists(_PIECES, max_size=8).map("".join), st.text(max_size=30))


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A root, and beside it what must not be touched."""
    outer = tmp_path_factory.mktemp("outer")
    (outer / "secret").write_bytes(b"secret")
    (outer / "root").mkdir()
    return outer


@given(name=NAMES)
def test_no_verb_of_the_folder_reads_or_writes_outside(place, name):
    store = LocalFolderStore(place / "root")
    before = {
        path: data for path, data in tree(place).items() if place / "root" not in path.parents
    }
    for act in (
        lambda: store.put(name, b"x"),
        lambda: store.put_if_absent(name, b"x"),
        lambda: store.get(name),
        lambda: store.get_range(name, 0, 1),
        lambda: store.head(name),
        lambda: list(store.list(name)),
        lambda: store.list_folders(name),
        lambda: store.delete(name),
        lambda: list(store.leftovers(name)),
    ):
        with contextlib.suppress(PawlError):
            assert b"secret" not in repr(act()).encode()
    outside = {
        path: data for path, data in tree(place).items() if place / "root" not in path.parents
    }
    assert outside == before


@given(name=NAMES)
def test_a_run_name_is_one_plain_segment_or_refused(name):
    try:
        prefix = keys.run_prefix(name)
    except InvalidInputError:
        return
    assert prefix == f"runs/{name}/"
    assert prefix.count("/") == 2
    assert name.isascii()
    assert ".." not in name


@given(name=NAMES, digest=NAMES)
def test_a_key_that_is_made_of_a_name_and_a_digest_stays_below_its_run(name, digest):
    with contextlib.suppress(PawlError):
        key = keys.manifest_key(name, 2, digest)
        MemoryStore().put(key, b"")
        assert key.startswith(f"runs/{name}/manifests/")
        assert ".." not in key.split("/")


@given(text=NAMES)
def test_a_reference_names_a_legal_run_or_is_refused(text):
    with contextlib.suppress(InvalidInputError):
        run, _ = parse_reference(text)
        keys.check_run_name(run)


@pytest.fixture(scope="module")
def made():
    run = MadeUpRun(store=MemoryStore(), name="run", ranks=1)
    run.start()
    run.commit(10)
    return run


@given(tag=NAMES)
def test_a_tag_makes_no_key(made, tag):
    before = [info.key for info in made.store.list("") if "/log/" not in info.key]
    with contextlib.suppress(PawlError):
        move_tag(made.log, tag, VersionName(number=1, manifest=made.version(1).manifest))
    assert [info.key for info in made.store.list("") if "/log/" not in info.key] == before


def shard_with(name: str) -> bytes:
    header = build_header(arrange([(name, "U8", (4,))]))
    return header + b"evil"


@given(path=NAMES)
def test_a_file_of_a_version_is_written_below_its_folder_or_not_at_all(place, path):
    target = place / "root" / "restored"
    before = {p: d for p, d in tree(place).items() if target not in p.parents}
    with contextlib.suppress(PawlError, OSError, ValueError):  # a name that no file system takes
        entry = FileEntry(path=path, shard=0, name="f", bytes=4)
        data = shard_with("f")
        made = replace(FILES, files=(entry,), shards=(replace(FILES.shards[0], bytes=len(data)),))
        check_coverage(made)
        write_files(made, lambda _: data, target)
    assert {p: d for p, d in tree(place).items() if target not in p.parents} == before
    shutil.rmtree(target, ignore_errors=True)


def test_a_shard_without_the_file_that_the_manifest_names_is_damage(tmp_path):
    made = replace(FILES, files=(FileEntry(path="a", shard=0, name="f", bytes=4),))
    with pytest.raises(DamageError, match="does not hold 'f'"):
        write_files(made, lambda _: shard_with("other"), tmp_path)


@given(key=NAMES)
def test_a_manifest_names_shards_of_its_store_alone(key):
    entry = ShardEntry(rank=0, key=key, bytes=100, digest="xxh3-128:" + "0" * 32)
    with pytest.raises(DamageError, match="no shard key"):
        check_coverage(replace(FILES, files=(), shards=(entry,)))


FILES = Manifest(
    payload="files", run_id="a" * 32, fence=7, write_id="w", created_at="2026-11-24T01:02:03+00:00", parent=None,
    progress=Progress(step=1, epoch=0, finished=False), world_size=1,
    shards=(ShardEntry(rank=0, key=keys.new_shard_key("r", 7), bytes=100, digest="xxh3-128:" + "0" * 32),),
)  # fmt: skip
