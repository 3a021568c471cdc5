"""Loops that hand over a checkpoint directory: the same store, the same guarantees."""

import json
from pathlib import Path

import pytest
from ray.train import Checkpoint
from torch import nn

from ray_workers.directory import pack_directory
from ray_workers.opening_checkpoint import open_checkpoint
from ray_workers.session import CheckpointSession
from ray_workers.store.attempts import read_run
from ray_workers.store.errors import InvalidInputError, RetryableError, StateMismatchError
from ray_workers.store.versions import load_manifest
from tests.support.factories import flip_byte
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.small_training import Killed, patient_process, small_loop

STEPS = 6


@pytest.fixture
def run(tmp_path):
    return patient_process(tmp_path)


def directory_loop(folder, *, die_at=None, as_checkpoint=False, restored=None):
    """Writes its state into a directory each step, as loops for Ray Train do, and reports it."""

    def loop(config):
        with CheckpointSession.open() as session:
            state = {"total": 0, "step": 0}
            if session.restored_directory is not None:
                state = json.loads(
                    (session.restored_directory / "state" / "state.json").read_text()
                )
                if restored is not None:
                    restored.append(_tree(session.restored_directory))
            while state["step"] < STEPS:
                if state["step"] + 1 == die_at:
                    raise Killed
                state = {"total": state["total"] * 3 + 1, "step": state["step"] + 1}
                target = folder / f"checkpoint-{state['step']}"
                _write(target, state)
                handed = Checkpoint.from_directory(str(target)) if as_checkpoint else target
                session.report({"loss": 1 / state["step"]}, checkpoint=handed)
                for path in sorted(target.rglob("*"), reverse=True):
                    path.rmdir() if path.is_dir() else path.unlink()  # it may go when report returns
            assert session.step == STEPS

    return loop


def _write(folder, state):
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "state.json").write_text(json.dumps(state))
    (folder / "weights.bin").write_bytes(bytes(range(256)) * state["step"])
    (folder / "empty").touch()
    (folder / "ümlaut and space.txt").write_text("x")


def _tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _expected(step):
    total = 0
    for _ in range(step):
        total = total * 3 + 1
    return {
        "empty": b"",
        "state/state.json": json.dumps({"total": total, "step": step}).encode(),
        "weights.bin": bytes(range(256)) * step,
        "ümlaut and space.txt": b"x",
    }


def _shards(run):
    store = run.target.open().store
    return {
        v.number: load_manifest(store, "run", v).shards[0]
        for v in read_run(store, "run").versions.values()
    }


@pytest.mark.parametrize("as_checkpoint", [False, True])
def test_a_directory_goes_into_the_store_and_comes_back(tmp_path, run, as_checkpoint):
    with pytest.raises(Killed):
        run.attempt(directory_loop(tmp_path / "a", die_at=4, as_checkpoint=as_checkpoint))
    restored: list[dict[str, bytes]] = []
    again = run.attempt(directory_loop(tmp_path / "b", restored=restored))
    assert again.point.step == 3
    assert restored == [_expected(3)]
    manifest = run.newest_manifest()
    assert (manifest.payload, manifest.progress.step) == ("files", STEPS)
    assert manifest.metrics["loss"] == pytest.approx(1 / STEPS)
    assert _tree(Path(open_checkpoint("run@latest", run.target.url).path)) == _expected(STEPS)


def test_killed_or_not_the_same_directories_give_the_same_digests(tmp_path, run):
    (tmp_path / "whole").mkdir()
    whole = patient_process(tmp_path / "whole")
    whole.attempt(directory_loop(tmp_path / "a"))
    with pytest.raises(Killed):
        run.attempt(directory_loop(tmp_path / "b", die_at=4))
    run.attempt(directory_loop(tmp_path / "c"))
    digests = [[shard.digest for shard in _shards(each).values()] for each in (whole, run)]
    assert digests[0] == digests[1]
    assert len(digests[0]) == STEPS


@pytest.mark.parametrize("at", [0, 70, -1], ids=["first byte", "middle byte", "last byte"])
def test_a_bad_directory_is_quarantined_and_the_one_before_is_resumed(tmp_path, run, at):
    with pytest.raises(Killed):
        run.attempt(directory_loop(tmp_path / "a", die_at=4))
    key = _shards(run)[3].key
    flip_byte(tmp_path / "store", key, at)
    restored: list[dict[str, bytes]] = []
    again = run.attempt(directory_loop(tmp_path / "b", restored=restored))
    assert restored == [_expected(2)]
    assert key in again.state.versions[3].quarantine
    assert _tree(Path(open_checkpoint("run@latest", run.target.url).path)) == _expected(STEPS)


def test_a_loop_with_a_model_cannot_take_up_directories_silently_and_the_reverse(tmp_path, run):
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=5))
    with pytest.raises(StateMismatchError, match="without a model"):
        run.attempt(directory_loop(tmp_path / "a"))
    other = patient_process(tmp_path, "other")
    with pytest.raises(Killed):
        other.attempt(directory_loop(tmp_path / "b", die_at=4))
    with pytest.raises(StateMismatchError, match="directory"):
        other.attempt(small_loop())


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="does not exist"):
        pack_directory(tmp_path / "absent", rank=0, metrics={})


def test_a_rank_without_files_contributes_none():
    content = pack_directory(None, rank=1, metrics={"loss": 1.0})
    assert (content.tensors, content.files, content.payload) == ({}, (), "files")
    assert content.metrics == {}  # rank 0's count


def test_a_report_without_a_directory_counts_a_step_and_makes_no_version(tmp_path, run):
    _write(tmp_path / "files", {"total": 1, "step": 2})

    def loop(config):
        with CheckpointSession.open() as session:
            for step in (1, 2, 3, 4):
                handed = tmp_path / "files" if step == 2 else None
                session.report({"loss": 0.5}, checkpoint=handed)

    state = run.attempt(loop).state
    assert [v.step for v in state.newest_first()] == [2]


def test_a_session_with_a_model_takes_no_directories(tmp_path, run):
    def loop(config):
        with CheckpointSession.open(model=nn.Linear(1, 1)) as session:
            session.report({"loss": 0.5}, checkpoint=tmp_path)

    with pytest.raises(InvalidInputError, match="opened with a model"):
        run.attempt(loop)
    assert read_run(run.target.open().store, "run").versions == {}


def test_an_empty_directory_is_a_version_of_no_files(tmp_path, run):
    (tmp_path / "nothing").mkdir()

    def loop(config):
        with CheckpointSession.open() as session:
            session.report({"loss": 0.5}, checkpoint=tmp_path / "nothing")

    run.attempt(loop)
    assert (run.newest_manifest().files, run.newest_manifest().progress.step) == ((), 1)
    assert _tree(Path(open_checkpoint("run@1", run.target.url).path)) == {}


def _fail_last(keys_seen, at):
    """The upload of the `at`th shard fails."""

    def wrap(store):
        def plan(call):
            if call.verb != "put" or "/shards/" not in call.key:
                return None
            keys_seen.append(call.key)
            return Fault.UNAVAILABLE if len(keys_seen) == at else None

        return FaultyStore(store, plan)

    return wrap


def test_a_last_directory_that_is_no_version_ends_the_attempt_for_a_retry(tmp_path):
    run = patient_process(tmp_path, tries=1, wrap_store=_fail_last([], STEPS))
    with pytest.raises(RetryableError, match="did not become a version"):
        run.attempt(directory_loop(tmp_path / "a"))
    again = patient_process(tmp_path).attempt(directory_loop(tmp_path / "b"))
    assert again.resumed.step == STEPS - 1
    assert _tree(Path(open_checkpoint("run@latest", run.target.url).path)) == _expected(STEPS)


def test_a_directory_that_is_no_version_costs_nothing_when_a_later_one_is(tmp_path):
    run = patient_process(tmp_path, tries=1, wrap_store=_fail_last([], STEPS - 1))
    state = run.attempt(directory_loop(tmp_path / "a")).state
    assert [v.step for v in state.newest_first()] == [STEPS, *range(STEPS - 2, 0, -1)]


def test_an_attempt_that_hands_over_nothing_ends_well(tmp_path, run):
    run.attempt(directory_loop(tmp_path / "a"))

    def loop(config):
        with CheckpointSession.open() as session:
            session.report({"loss": 0.5})

    assert len(run.attempt(loop).state.versions) == STEPS
