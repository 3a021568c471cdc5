"""A large frozen body under a small trained head: what does not change is sent once, and everything comes back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.restoring import ShardCache
from ray_workers.session import CheckpointSession
from ray_workers.shard_reading import read_tensors
from ray_workers.store.attempts import read_run, this_process
from ray_workers.store.bodies import Retire, Verdict
from ray_workers.store.catalog import version_rows
from ray_workers.store.log import RunLog
from ray_workers.store.opening import StorageTarget
from ray_workers.store.run_state import VersionState
from ray_workers.store.sweep import sweep
from ray_workers.store.versions import load_manifest, verify_bytes
from tests.support.in_process import Finished, OneProcess

WIDTH = 600  # 1.44 MB of frozen weights: worth a shard of its own


def new_model() -> Any:
    torch.manual_seed(1)
    body = nn.Linear(WIDTH, WIDTH, bias=False).requires_grad_(requires_grad=False)
    return nn.ModuleDict({"body": body, "head": nn.Linear(WIDTH, 2)})


class Tuning:
    """`steps` steps of a fresh session; `between(model, step)` is called after each."""

    def __init__(self, between: Any = lambda _model, _step: None) -> None:
        self.between = between
        self.live: dict[int, torch.Tensor] = {}

    def loop(self, config: dict[str, Any]) -> None:
        model = new_model()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
        with CheckpointSession.open(model=model, optimizer=optimizer, loader=range(100)) as session:
            for _batch in session.batches(epochs=1):
                model["head"](model["body"](torch.randn(2, WIDTH))).square().sum().backward()
                optimizer.step()
                optimizer.zero_grad()
                self.live[session.step + 1] = model["body"].weight.detach().clone()
                session.advance()
                self.between(model, session.step)
                if session.step >= config["steps"]:
                    break


@pytest.fixture
def run(tmp_path: Path) -> OneProcess:
    (tmp_path / "staging").mkdir()
    return OneProcess(
        target=StorageTarget(str(tmp_path / "store")),
        run="run",
        staging=tmp_path / "staging",
        thresholds=SaveThresholds(every_steps=1),
        wait_for_saves=True,
    )


def bodies(run: OneProcess) -> dict[int, tuple[str, bool]]:
    """By version number: the key of the shard that holds the body, and whether it is a shard apart."""
    store, found = run.target.open().store, {}
    for version in read_run(store, run.run).newest_first():
        manifest = load_manifest(store, run.run, version)
        (chunk,) = manifest.tensors["shared/model/body.weight"].chunks
        found[version.number] = manifest.shards[chunk.shard].key, chunk.shard > 0
    return found


def check_whole(run: OneProcess, live: dict[int, torch.Tensor]) -> None:
    store = run.target.open().store
    for version in read_run(store, run.run).newest_first():
        assert verify_bytes(store, run.run, version)[0].passed
        manifest = load_manifest(store, run.run, version)
        stored = read_tensors(manifest, ShardCache(store).read, prefix="shared/model/body.weight")
        assert torch.equal(stored["shared/model/body.weight"], live[version.step])


def new_bytes(run: OneProcess) -> dict[int, int | None]:
    rows = version_rows(run.target.open().store, run.run)
    return {entry.version.number: entry.bytes_new for entry in rows}


def dropped(done: Finished) -> list[str]:
    return [e.message for e in done.manager.drain_events() if e.kind == "dropped"]


def test_a_frozen_body_is_sent_once_and_every_version_is_whole(run: OneProcess) -> None:
    tuning = Tuning()
    done = run.attempt(tuning.loop, {"steps": 4})
    found = bodies(run)
    assert len(found) == 4
    assert {apart for _, apart in found.values()} == {True}
    assert len({key for key, _ in found.values()}) == 1
    sent = new_bytes(run)
    first = sent[1]
    assert first is not None
    assert first > 4 * WIDTH * WIDTH
    assert max(sent[number] or 0 for number in (2, 3, 4)) < 100_000
    assert [v.base for v in done.state.newest_first()] == [3, 2, 1, None]
    committed = [e for e in done.manager.drain_events() if e.kind == "committed"]
    assert "MB sent" not in committed[0].message
    assert "MB, of which 0." in committed[1].message
    assert committed[1].details["bytes_new"] == sent[2]
    check_whole(run, tuning.live)


def test_the_next_attempt_names_what_the_one_before_stored(run: OneProcess) -> None:
    tuning = Tuning()
    run.attempt(tuning.loop, {"steps": 2})
    done = run.attempt(tuning.loop, {"steps": 4})
    assert done.resumed.name.number == 2
    assert len({key for key, _ in bodies(run).values()}) == 1
    assert done.state.versions[3].base == 2
    check_whole(run, tuning.live)


def test_a_fork_sends_everything(run: OneProcess) -> None:
    tuning = Tuning()
    run.attempt(tuning.loop, {"steps": 2})
    run.run = "child"
    child = run.attempt(tuning.loop, {"steps": 4}, resume="run@2")
    assert child.state.newest_first()[-1].base is None
    assert all(key.startswith("runs/child/") for key, _ in bodies(run).values())


def test_versions_that_share_a_shard_outlive_the_one_it_was_sent_for(run: OneProcess) -> None:
    tuning = Tuning()
    run.attempt(tuning.loop, {"steps": 4})
    store = run.target.open().store
    log = RunLog(store, run.run, by=this_process())
    names = [v.name for v in log.state.newest_first()]
    log.append(lambda _: Verdict(versions=tuple(names), check="sound", passed=True, checker="test"))
    log.append(lambda _: Retire(versions=tuple(names[2:])))
    done = sweep(store, run.run, by=this_process(), grace_s=0)
    assert done.swept == (1, 2)
    for version in log.refresh().newest_first()[:2]:
        assert verify_bytes(store, run.run, version)[0].passed


def test_a_shard_is_stored_again_after_so_many_versions(run: OneProcess) -> None:
    run.full_every = 3
    run.attempt(Tuning().loop, {"steps": 7})
    found = [key for _, (key, _) in sorted(bodies(run).items())]
    assert [found.count(key) for key in dict.fromkeys(found)] == [3, 3, 1]


def test_sharing_can_be_switched_off(run: OneProcess) -> None:
    run.full_every = 1
    done = run.attempt(Tuning().loop, {"steps": 3})
    assert {apart for _, apart in bodies(run).values()} == {False}
    assert {v.base for v in done.state.newest_first()} == {None}


def test_a_body_that_thaws_is_sent_as_often_as_it_changes(run: OneProcess) -> None:
    def thaw(model: Any, step: int) -> None:
        if step == 2:
            with torch.no_grad():
                model["body"].weight.mul_(2)  # between two saves, after the copy of the last

    tuning = Tuning(thaw)
    done = run.attempt(tuning.loop, {"steps": 5})
    assert not dropped(done)
    found = bodies(run)
    assert found[1] == found[2]
    assert [apart for _, (_, apart) in sorted(found.items())] == [True, True, False, False, False]
    check_whole(run, tuning.live)


def test_a_change_that_torch_does_not_count_is_found_by_its_bytes(run: OneProcess) -> None:
    def write(model: Any, step: int) -> None:
        model["body"].weight.data.add_(1 if step < 6 else 0)

    tuning = Tuning(write)
    run.attempt(tuning.loop, {"steps": 8})
    found = bodies(run)
    assert len({key for key, _ in found.values()}) == 8  # each other bytes, so sent
    assert [apart for _, (_, apart) in sorted(found.items())][-1] is False  # and found out
    check_whole(run, tuning.live)


def bad_bytes(run: OneProcess, version: VersionState) -> None:
    log = RunLog(run.target.open().store, run.run, by=this_process())
    log.append(
        lambda _: Verdict(versions=(version.name,), check="bytes", passed=False, checker="test")
    )


def test_a_base_that_may_not_be_built_on_costs_one_version_and_the_next_sends_all(
    run: OneProcess,
) -> None:
    def spoil(_: Any, step: int) -> None:
        if step == 2:
            bad_bytes(run, read_run(run.target.open().store, run.run).versions[2])

    tuning = Tuning(spoil)
    done = run.attempt(tuning.loop, {"steps": 5})
    (told,) = dropped(done)
    assert "are bad" in told
    found = bodies(run)
    assert [v.step for v in done.state.newest_first()] == [5, 4, 2, 1]
    assert found[1][0] == found[2][0] != found[3][0] == found[4][0]
    assert done.state.versions[3].base is None
    check_whole(run, tuning.live)
