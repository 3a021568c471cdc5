"""Saves whose copies run beside training: what is stored is the state at `advance`, whatever happens afterwards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import optimizer as optimizer_module

from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.restoring import ShardCache
from ray_workers.session import CheckpointSession
from ray_workers.shard_reading import read_tensors
from ray_workers.store.attempts import read_run
from ray_workers.store.opening import StorageTarget
from ray_workers.store.versions import load_manifest
from ray_workers.training_state import TrainingParts, steady_paths
from tests.support.gated_copy import hold_copies_back
from tests.support.in_process import OneProcess

STEPS = 5
WIDTH = 200  # a weight of 160 kB: large enough to be copied beside training


class Average:
    """An exponential average that user code changes whenever it likes."""

    def __init__(self, parameter: torch.Tensor) -> None:
        self.value = torch.zeros_like(parameter)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.value.copy_(state["value"])


class Made:
    """A training with two optimizers, a scheduler, a scaler, a buffer, a frozen layer, a tied weight and an average."""

    def __init__(self) -> None:
        torch.manual_seed(5)
        self.model: Any = nn.ModuleDict(
            {
                "first": nn.Linear(WIDTH, WIDTH),
                "norm": nn.BatchNorm1d(WIDTH),
                "tied": nn.Linear(WIDTH, WIDTH),
                "last": nn.Linear(WIDTH, WIDTH),
                "frozen": nn.Linear(WIDTH, WIDTH).requires_grad_(requires_grad=False),
            }
        )
        self.model["tied"].weight = self.model["first"].weight
        own = [*self.model["first"].parameters(), *self.model["norm"].parameters()]
        self.optimizers = [
            torch.optim.AdamW(own, lr=0.01),
            torch.optim.SGD(self.model["last"].parameters(), lr=0.01, momentum=0.9),
        ]
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizers[0], step_size=2)
        self.scaler = torch.amp.GradScaler("cpu")
        weight: Any = self.model["first"].weight
        self.average = Average(weight)

    def loss(self) -> torch.Tensor:
        x = torch.randn(4, WIDTH)
        for name in ("first", "norm", "tied", "last", "frozen"):
            x = self.model[name](x)
        return x.square().mean()

    def step(self) -> torch.Tensor:
        self.scaler.scale(self.loss()).backward()  # gradients are accumulated over two passes
        loss = self.loss()
        self.scaler.scale(loss).backward()
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad()
        self.scaler.update()
        self.scheduler.step()
        return loss

    def open(self) -> CheckpointSession:
        return CheckpointSession.open(
            model=self.model,
            optimizer=self.optimizers,
            scheduler=self.scheduler,
            extra={"average": self.average, "scaler": self.scaler},
            loader=range(STEPS),
        )


def one_process(folder: Path) -> OneProcess:
    (folder / "staging").mkdir()
    return OneProcess(
        target=StorageTarget(str(folder / "store")),
        run="run",
        staging=folder / "staging",
        thresholds=SaveThresholds(every_steps=1),
    )


def live(made: Made) -> dict[str, torch.Tensor]:
    """What a version of this moment must hold, by path, copied."""
    found = {f"shared/model/{k}": v for k, v in made.model.state_dict().items()}
    found["shared/extra/average/value"] = made.average.value
    for name, module in made.model.named_children():
        for key, parameter in module.named_parameters():
            for place, optimizer in enumerate(made.optimizers):
                for kind, value in optimizer.state.get(parameter, {}).items():
                    if isinstance(value, torch.Tensor) and name != "tied":
                        found[f"shared/optimizer/{place}/state/{name}.{key}/{kind}"] = value
    return {path: value.detach().clone() for path, value in found.items()}


def stored(run: OneProcess) -> dict[int, dict[str, torch.Tensor]]:
    store = run.target.open().store
    found = {}
    for version in read_run(store, run.run).newest_first():
        manifest = load_manifest(store, run.run, version)
        found[version.step] = read_tensors(manifest, ShardCache(store).read, prefix="shared")
    return found


def assert_as_they_were(run: OneProcess, wanted: dict[int, dict[str, torch.Tensor]]) -> set[int]:
    found = stored(run)
    for step, tensors in found.items():
        for path, value in wanted[step].items():
            assert torch.equal(tensors[path], value), (step, path)
    return set(found)


def test_everything_changed_at_the_worst_moment_leaves_every_version_unharmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No byte of the steady state is copied before something waits for it: only the join keeps the steps out."""
    hold_copies_back(monkeypatch)
    run, wanted = one_process(tmp_path), dict[int, dict[str, torch.Tensor]]()

    def loop(_: dict[str, Any]) -> None:
        made = Made()
        with made.open() as session:
            for _batch in session.batches(epochs=1):
                loss = made.step()
                made.average.value.lerp_(made.model["first"].weight.detach(), 0.1)
                wanted[session.step + 1] = live(made)
                session.advance(loss=loss)
                if session.step < STEPS:  # the last save is made when the loop is over
                    made.average.value.add_(1)
                    made.model["frozen"].weight.data.add_(1)
                    made.model["norm"].get_buffer("running_mean").add_(1)

    run.attempt(loop)
    assert {1, STEPS} <= assert_as_they_were(run, wanted)


def test_an_optimizer_that_was_not_handed_over_waits_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_copies_back(monkeypatch)
    run, wanted = one_process(tmp_path), dict[int, dict[str, torch.Tensor]]()

    def loop(_: dict[str, Any]) -> None:
        made = Made()
        second = torch.optim.SGD(made.model["first"].parameters(), lr=0.1)
        with made.open() as session:
            for _batch in session.batches(epochs=1):
                made.step()
                wanted[session.step + 1] = live(made)
                session.advance()
                if session.step < STEPS:  # the last save is made when the loop is over
                    made.loss().backward()
                    second.step()

    run.attempt(loop)
    assert {1, STEPS} <= assert_as_they_were(run, wanted)


def test_user_code_that_changes_parameters_costs_one_version_and_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_copies_back(monkeypatch)
    run, wanted = one_process(tmp_path), dict[int, dict[str, torch.Tensor]]()

    def loop(_: dict[str, Any]) -> None:
        made = Made()
        with made.open() as session:
            for _batch in session.batches(epochs=1):
                made.step()
                wanted[session.step + 1] = live(made)
                session.advance()
                if session.step < STEPS:  # the last save is made when the loop is over
                    with torch.no_grad():
                        made.model["first"].weight.clamp_(-0.01, 0.01)

    done = run.attempt(loop)
    kept = assert_as_they_were(run, wanted)
    assert 1 not in kept
    assert STEPS in kept
    (dropped,) = [e for e in done.manager.drain_events() if e.kind == "dropped"]
    assert "model/first.weight" in dropped.message
    assert "advance" in dropped.message


def test_after_a_rest_begins_parameters_may_be_swapped_through_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_copies_back(monkeypatch)
    run, wanted = one_process(tmp_path), dict[int, dict[str, torch.Tensor]]()

    def loop(_: dict[str, Any]) -> None:
        made = Made()
        with made.open() as session:
            for _batch in session.batches(epochs=1):
                made.step()
                wanted[session.step + 1] = live(made)
                session.advance()
                if session.step < STEPS:  # the last save is made when the loop is over
                    with session.resting():
                        made.model["first"].weight.data.zero_()

    run.attempt(loop)
    assert {1, STEPS} <= assert_as_they_were(run, wanted)


def test_what_is_steady_and_what_is_not() -> None:
    made = Made()
    made.step()
    parts = TrainingParts(
        model=made.model,
        optimizer=made.optimizers,
        scheduler=made.scheduler,
        extra={"average": made.average},
    )
    steady = steady_paths(parts, live(made))
    assert {p for p in steady if p.startswith("shared/model/")} == {
        f"shared/model/{name}"
        for name in (
            "first.weight", "first.bias", "tied.weight", "norm.weight", "norm.bias", "last.weight", "last.bias",
        )
    }  # fmt: skip
    assert "shared/optimizer/0/state/first.weight/exp_avg" in steady
    assert "shared/optimizer/1/state/last.bias/momentum_buffer" in steady
    assert "shared/extra/average/value" not in steady


class Unhooked:
    """Looks like an optimizer and is none of torch's: its steps announce nothing."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.param_groups, self.inner = inner.param_groups, inner

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(1)


def test_the_parameters_of_a_foreign_optimizer_are_copied_at_once() -> None:
    made = Made()
    foreign: Any = Unhooked(made.optimizers[0])
    parts = TrainingParts(model=made.model, optimizer=[foreign, made.optimizers[1]])
    steady = steady_paths(parts, live(made))
    assert steady == {"shared/model/last.weight", "shared/model/last.bias"}


def test_training_stood_still_for_the_time_that_is_recorded(tmp_path: Path) -> None:
    run = one_process(tmp_path)

    def loop(_: dict[str, Any]) -> None:
        made = Made()
        with made.open() as session:
            for _batch in session.batches(epochs=1):
                made.step()
                session.advance()

    run.attempt(loop)
    assert run.newest_manifest().durations["staging_s"] > 0


def test_a_loop_that_fails_leaves_no_hook_and_no_copy_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_copies_back(monkeypatch)
    run, wanted = one_process(tmp_path), dict[int, dict[str, torch.Tensor]]()
    hooks = optimizer_module._global_optimizer_pre_hooks
    before = len(hooks)

    def loop(_: dict[str, Any]) -> None:
        made = Made()
        with made.open() as session:
            for _batch in session.batches(epochs=1):
                made.step()
                wanted[session.step + 1] = live(made)
                session.advance()
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.attempt(loop)
    assert len(hooks) == before
    assert assert_as_they_were(run, wanted) == {1}  # what was staged still becomes a version
