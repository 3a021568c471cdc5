"""A loop killed at any step and started again ends exactly as if nothing had happened."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.session import CheckpointSession
from ray_workers.store.attempts import read_run
from ray_workers.store.errors import InvalidInputError, StateMismatchError
from ray_workers.store.opening import StorageTarget
from tests.support.in_process import OneProcess

STEPS_PER_EPOCH = 5
EPOCHS = 3


class Killed(BaseException):
    """Stands for SIGKILL in one process: nothing catches it."""


class Shuffled(torch.utils.data.Sampler[int]):
    """An order that depends on the epoch alone."""

    def __init__(self, size: int) -> None:
        self._size, self._epoch = size, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._size

    def __iter__(self):
        generator = torch.Generator().manual_seed(self._epoch)
        yield from torch.randperm(self._size, generator=generator).tolist()


def small_loop(*, die_at: int | None = None, width: int = 8, seen: list[list[int]] | None = None):
    """A classifier with dropout, BatchNorm, Adam and a schedule; dies at the start of step `die_at`."""

    def loop(config: dict[str, Any]) -> None:
        torch.manual_seed(3)
        torch.set_num_threads(1)
        data = torch.utils.data.TensorDataset(torch.randn(40, 6), torch.arange(40))
        model = nn.Sequential(
            nn.Linear(6, width), nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Linear(width, 1)
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)
        loader = StatefulDataLoader(data, batch_size=8, sampler=Shuffled(40))
        with CheckpointSession.open(
            model=model, optimizer=optimizer, loader=loader, scheduler=scheduler
        ) as session:
            for inputs, index in session.batches(epochs=config.get("epochs", EPOCHS)):
                if die_at is not None and session.step + 1 == die_at:
                    raise Killed
                if seen is not None:
                    seen.append(index.tolist())
                loss = model(inputs).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                session.advance(loss=loss)

    return loop


def one_process(folder: Path, name: str = "run", **thresholds: Any) -> OneProcess:
    staging = folder / "staging"
    staging.mkdir(exist_ok=True)
    return OneProcess(
        target=StorageTarget(str(folder / "store")),
        run=name,
        staging=staging,
        thresholds=SaveThresholds(**(thresholds or {"every_steps": 2})),
    )


def digests(run: OneProcess) -> list[str]:
    return [shard.digest for shard in run.newest_manifest().shards]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    run = one_process(tmp_path_factory.mktemp("whole"))
    run.attempt(small_loop())
    return digests(run)


@pytest.mark.parametrize("die_at", range(1, STEPS_PER_EPOCH * EPOCHS + 1))
def test_killed_at_any_step_it_ends_bit_identical(
    tmp_path: Path, uninterrupted: list[str], die_at: int
) -> None:
    run = one_process(tmp_path)
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=die_at))
    committed = read_run(run.target.open().store, "run").newest_first()
    again = run.attempt(small_loop())
    assert digests(run) == uninterrupted
    # Steps of a millisecond outrun any store; how much is done again is asserted where steps take their time.
    assert (again.point.step if again.point else 0) == (committed[0].step if committed else 0)


@pytest.mark.parametrize(
    "thresholds",
    [{"every_epochs": 1}, {"every_steps": 5, "every_epochs": 1}, {"every_seconds": 1e-9}],
)
def test_resume_at_and_around_an_epochs_end(
    tmp_path: Path, uninterrupted: list[str], thresholds: dict[str, Any]
) -> None:
    for die_at in (5, 6, 7, 11):
        folder = tmp_path / str(die_at)
        folder.mkdir()
        run = one_process(folder, **thresholds)
        with pytest.raises(Killed):
            run.attempt(small_loop(die_at=die_at))
        run.attempt(small_loop())
        assert digests(run) == uninterrupted


def test_every_sample_is_seen_once_an_epoch_over_attempts(tmp_path: Path) -> None:
    whole: list[list[int]] = []
    one_process(tmp_path, "whole").attempt(small_loop(seen=whole))
    run, parts = one_process(tmp_path, "parts"), list[list[int]]()
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=8, seen=parts))
    done = len(parts)
    again = run.attempt(small_loop(seen=parts))
    assert again.point is not None
    assert parts[: again.point.step] + parts[done:] == whole


def test_a_finished_run_has_nothing_to_do_and_more_epochs_train_on(tmp_path: Path) -> None:
    run = one_process(tmp_path)
    first = run.attempt(small_loop(), {"epochs": 2})
    again = run.attempt(small_loop(), {"epochs": 2})
    assert len(again.state.versions) == len(first.state.versions)
    run.attempt(small_loop(), {"epochs": 3})
    longer = one_process(tmp_path, "longer")
    longer.attempt(small_loop(), {"epochs": 3})
    assert digests(run) == digests(longer)


def test_the_loss_series_has_neither_gap_nor_overlap(tmp_path: Path) -> None:
    whole, run = one_process(tmp_path, "whole"), one_process(tmp_path)
    whole.attempt(small_loop())
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=10))
    run.attempt(small_loop())
    curve = run.newest_manifest().curve["loss"]
    assert curve.steps == tuple(range(1, STEPS_PER_EPOCH * EPOCHS + 1))
    assert curve == whole.newest_manifest().curve["loss"]


def test_state_that_does_not_fit_is_refused_with_the_differences(tmp_path: Path) -> None:
    run = one_process(tmp_path)
    run.attempt(small_loop())
    with pytest.raises(StateMismatchError, match=r"0\.weight"):
        run.attempt(small_loop(width=9))


def test_outside_a_pawl_run_opening_a_session_says_how_to_start() -> None:
    with pytest.raises(InvalidInputError, match="pawl train"):
        CheckpointSession.open()


def two_phases(_: dict[str, Any]) -> None:
    """Pretrains in one session, and finetunes in a second one."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _phase in range(2):
        with CheckpointSession.open(model=model, optimizer=optimizer, loader=[1, 2]) as session:
            for _batch in session.batches(epochs=1):
                session.advance(loss=0.5)


def test_a_second_session_of_one_loop_is_refused_and_not_lost_without_a_word(
    tmp_path: Path,
) -> None:
    run = one_process(tmp_path)
    with pytest.raises(InvalidInputError, match=r"already.*one session for all phases.*--run"):
        run.attempt(two_phases)
    assert run.newest_manifest().progress.step == 2
    with pytest.raises(InvalidInputError, match="already"):
        run.attempt(two_phases)  # the next attempt opens its own first one


def test_an_open_that_was_refused_may_be_tried_again(tmp_path: Path) -> None:
    def loop(_: dict[str, Any]) -> None:
        model = nn.Linear(2, 1)
        with pytest.raises(InvalidInputError, match="no state_dict"):
            CheckpointSession.open(model=model, extra={"ema": object()})
        with CheckpointSession.open(model=model, loader=[1]) as session:
            for _batch in session.batches(epochs=1):
                session.advance(loss=0.5)

    run = one_process(tmp_path)
    run.attempt(loop)
    assert run.newest_manifest().progress.step == 1


class Recent:
    """Keeps its values in a type that cannot be stored."""

    def state_dict(self) -> dict[str, Any]:
        return {"recent": deque([1])}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


def a_model(buffer: torch.Tensor | None = None) -> nn.Module:
    model = nn.Linear(2, 1)
    model.register_buffer("buffer", buffer)
    return model


UNSTORABLE: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "optimizer of another model": (
        lambda: {"model": a_model(), "optimizer": torch.optim.SGD(a_model().parameters(), lr=0.1)},
        "a parameter that is not in the model",
    ),
    "extra": (
        lambda: {"model": a_model(), "extra": {"recent": Recent()}},
        r"shared/extra/recent/recent is of type collections\.deque",
    ),
    "sparse": (
        lambda: {"model": a_model(torch.eye(2).to_sparse())},
        "sparse_coo tensor at shared/model/buffer cannot be stored",
    ),
    "complex32": (
        lambda: {"model": a_model(torch.zeros(2, dtype=torch.complex32))},
        r"shared/model/buffer has the type torch\.complex32",
    ),
}


@pytest.mark.filterwarnings("ignore:ComplexHalf support:UserWarning")
@pytest.mark.parametrize("case", UNSTORABLE)
def test_what_cannot_be_stored_is_refused_before_the_first_step(tmp_path: Path, case: str) -> None:
    parts, reason = UNSTORABLE[case]
    opened = False

    def loop(_: dict[str, Any]) -> None:
        nonlocal opened
        with CheckpointSession.open(**parts(), loader=[1]):
            opened = True

    with pytest.raises(InvalidInputError, match=reason):
        one_process(tmp_path).attempt(loop)
    assert not opened


@pytest.mark.parametrize("every_steps", [1, 5, 15])
def test_the_last_version_says_that_the_run_is_finished(tmp_path: Path, every_steps: int) -> None:
    run = one_process(tmp_path, every_steps=every_steps)
    run.attempt(small_loop())
    progress = run.newest_manifest().progress
    assert (progress.finished, progress.step, progress.epoch) == (True, 15, 3)


def test_versions_saved_at_thresholds_and_at_the_end(tmp_path: Path) -> None:
    run = one_process(tmp_path, every_steps=4)
    state = run.attempt(small_loop()).state
    steps = [v.step for v in reversed(state.newest_first())]
    assert steps[-1] == 15
    assert set(steps) <= {4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
    assert run.newest_manifest().progress.finished
