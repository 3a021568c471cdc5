"""Sessions over loaders that carry state, over gathered batches, and over data without a place in mid-epoch."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from ray_workers.context import current_context
from ray_workers.deciding import Decider
from ray_workers.decisions import Decision, LoneRank
from ray_workers.drill_notes import DrillEnded
from ray_workers.messages import DriverNews, StopRequest
from ray_workers.pipeline import InProcessPipeline
from ray_workers.policies.agreement import AgreementPace
from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.save_rounds import SaveRounds
from ray_workers.session import CheckpointSession
from ray_workers.store.attempts import read_run
from ray_workers.store.errors import AttemptInterruptedError, InvalidInputError
from tests.support.in_process import OneProcess
from tests.support.small_training import patient_process

BATCHES = 10


class Killed(BaseException):
    """Stands for SIGKILL in one process: nothing catches it."""


class Lengthless:
    """In order, and nobody knows when it ends."""

    def __init__(self, data: TensorDataset) -> None:
        self._loader = DataLoader(data, batch_size=4)

    def __iter__(self):
        return iter(self._loader)


def shuffled(data: TensorDataset) -> Any:
    return StatefulDataLoader(data, batch_size=4, shuffle=True)


def own_generator(data: TensorDataset) -> Any:
    generator = torch.Generator().manual_seed(1)
    return DataLoader(data, batch_size=4, shuffle=True, generator=generator)


class Noisy(TensorDataset):
    """Draws as it is loaded, as augmentation does."""

    def __getitem__(self, index: int) -> Any:
        return tuple(item + torch.rand(1) for item in super().__getitem__(index))


def drawn_globally(data: TensorDataset, workers: int = 0) -> Any:
    """An order and a noise that nothing but the process's own generators decide on."""
    return DataLoader(Noisy(*data.tensors), batch_size=4, shuffle=True, num_workers=workers)


def drawn_in_workers(data: TensorDataset) -> Any:
    return drawn_globally(data, workers=2)


def gathering_loop(
    make: Any, *, gather: int = 1, die_at: int | None = None, epochs_as: Any = lambda epochs: epochs
):
    """A loop of `BATCHES` batches an epoch that steps after every `gather` of them; dies ahead of batch `die_at`."""

    def loop(config: dict[str, Any]) -> None:
        torch.manual_seed(3)
        torch.set_num_threads(1)
        data = TensorDataset(torch.randn(4 * BATCHES, 4))
        model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.3), nn.Linear(6, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        with CheckpointSession.open(model=model, optimizer=optimizer, loader=make(data)) as session:
            batches = session.batches(epochs=epochs_as(config.get("epochs", 3)))
            for count, (inputs,) in zip(itertools.count(1), batches, strict=False):
                if count == die_at:
                    raise Killed
                loss = model(inputs).square().mean() / gather
                loss.backward()
                if count % gather == 0:
                    optimizer.step()
                    optimizer.zero_grad()
                    session.advance(loss=loss)

    return loop


def process(folder: Path, name: str = "run", **thresholds: Any) -> OneProcess:
    run = patient_process(folder, name)
    run.thresholds = SaveThresholds(**thresholds)
    return run


def digests(run: OneProcess) -> list[str]:
    return [shard.digest for shard in run.newest_manifest().shards]


def steps(run: OneProcess) -> list[int]:
    state = read_run(run.target.open().store, run.run)
    return [version.step for version in reversed(state.newest_first())]


@pytest.mark.parametrize("make", [shuffled, own_generator])
def test_more_epochs_go_on_as_if_they_had_been_wanted_from_the_start(
    tmp_path: Path, make: Any
) -> None:
    run, whole = (process(tmp_path, name, every_epochs=1) for name in ("run", "whole"))
    run.attempt(gathering_loop(make), {"epochs": 2})
    run.attempt(gathering_loop(make), {"epochs": 4})
    whole.attempt(gathering_loop(make), {"epochs": 4})
    assert digests(run) == digests(whole)


@pytest.mark.parametrize("make", [drawn_globally, drawn_in_workers])
def test_what_is_drawn_from_the_processs_own_generators_goes_on_in_mid_epoch(
    tmp_path: Path, make: Any
) -> None:
    run, whole = (process(tmp_path, name, every_steps=1) for name in ("run", "whole"))
    for die_at in (14, 3):  # in the second epoch; and there once more
        with pytest.raises(Killed):
            run.attempt(gathering_loop(make, die_at=die_at))
    run.attempt(gathering_loop(make))
    whole.attempt(gathering_loop(make))
    assert digests(run) == digests(whole)


@pytest.mark.parametrize("thresholds", [{"every_epochs": 1}, {"every_steps": 1}], ids=str)
def test_batches_gathered_over_the_end_of_an_epoch_are_gathered_again(
    tmp_path: Path, thresholds: dict[str, int]
) -> None:
    whole = process(tmp_path, "whole", **thresholds)
    whole.attempt(gathering_loop(shuffled, gather=4))
    for die_at in (10, 11, 14, 21, 30):
        run = process(tmp_path, f"run-{die_at}", **thresholds)
        with pytest.raises(Killed):
            run.attempt(gathering_loop(shuffled, gather=4, die_at=die_at))
        run.attempt(gathering_loop(shuffled, gather=4))
        assert digests(run) == digests(whole)


def test_no_version_is_made_where_batches_wait_for_a_step_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = process(tmp_path, every_epochs=1)
    run.attempt(gathering_loop(shuffled, gather=4))
    # Epochs end after 10, 20 and 30 batches: two wait, none, two.
    assert steps(run) == [3, 5, 7]
    assert run.newest_manifest().progress.finished
    said = [r.message for r in caplog.records if "wait for a step" in r.message]
    assert len(said) == 1
    assert said[0].startswith("2 batches at the end of the epoch")


def test_a_loop_that_hands_over_directories_is_told_nothing_of_batches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "weights").write_bytes(b"1")

    def loop(config: dict[str, Any]) -> None:
        with CheckpointSession.open(loader=list(range(BATCHES))) as session:
            for count in session.batches(epochs=2):
                if count == 3:
                    session.report({"loss": 1.0}, tmp_path / "made")

    run = process(tmp_path, every_epochs=1)
    run.attempt(loop)
    assert steps(run) == [1, 2]
    assert "wait for a step" not in caplog.text


@pytest.mark.parametrize("gather", [1, 3, 4, 7])
def test_the_last_version_says_that_the_run_is_finished_whatever_is_gathered(
    tmp_path: Path, gather: int
) -> None:
    run = process(tmp_path, every_steps=1)
    run.attempt(gathering_loop(shuffled, gather=gather))
    progress = run.newest_manifest().progress
    assert (progress.finished, progress.epoch, progress.step) == (True, 3, 3 * BATCHES // gather)


def test_a_loader_without_length_is_finished_when_its_end_was_seen_twice(tmp_path: Path) -> None:
    run = process(tmp_path, every_steps=1)
    run.attempt(gathering_loop(Lengthless))
    first = run.newest_manifest()
    run.attempt(gathering_loop(Lengthless))
    again = run.newest_manifest()
    assert (first.progress.finished, again.progress.finished) == (False, True)
    assert first.progress.step == again.progress.step
    made = len(steps(run))
    run.attempt(gathering_loop(Lengthless))
    assert len(steps(run)) == made


def drilled(run: OneProcess, make: Any, *, gather: int = 1) -> DrillEnded:
    """How a drill of the newest version ends."""

    def loop(config: dict[str, Any]) -> None:
        object.__setattr__(current_context(), "drill", True)
        gathering_loop(make, gather=gather)(config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InProcessPipeline, "stop_request", lambda _: StopRequest(reason="stopped"))
        with pytest.raises(DrillEnded) as ended:
            run.attempt(loop)
    return ended.value


def test_a_drill_takes_a_step_beyond_the_end_of_an_epoch_or_comes_to_the_end(
    tmp_path: Path,
) -> None:
    run = process(tmp_path, every_steps=1)
    with pytest.raises(Killed):
        run.attempt(gathering_loop(shuffled, gather=4, die_at=BATCHES))  # version after batch 8
    notes = drilled(run, shuffled, gather=4).notes
    assert (notes.steps, notes.through) == (1, False)
    lengthless = process(tmp_path, "lengthless", every_steps=1)
    lengthless.attempt(gathering_loop(Lengthless))
    notes = drilled(lengthless, Lengthless).notes
    assert (notes.steps, notes.through) == (0, True)


class Told(LoneRank):
    """Rank 0 says what it likes."""

    def __init__(self) -> None:
        self.brought: list[Decision | None] = []

    def agree(self, decision: Decision | None) -> Decision:
        self.brought.append(decision)
        return Decision(next_step=20)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("waiting", [0, 2])
def test_all_ranks_meet_between_epochs_whatever_waits_on_each(rank: int, waiting: int) -> None:
    """Rank 0 alone says what happens; with another number of batches a rank must not stay away."""
    channel = Told()
    context: Any = SimpleNamespace(
        rank=rank, interval=None, announcer=None, thresholds=SaveThresholds(every_epochs=1),
        pipeline=SimpleNamespace(stop_request=lambda: None),
    )  # fmt: skip
    saver: Any = SimpleNamespace(collect=list, in_flight=False, flights=0)
    live: Any = SimpleNamespace(
        step=4, epoch=1, committed_step=-1, batches_since_step=waiting, has_places=True, at_place=True,
        at_end=False, parts=object(),
    )  # fmt: skip
    rounds = SaveRounds(context, channel, saver, live)
    live.step, live.epoch = 8, 2
    rounds.meet_between_epochs()
    (mine,) = channel.brought
    assert (mine is None) == (rank == 1)
    if mine is not None:
        assert mine.save == (not waiting)
    for live.step, due in ((19, False), (20, True)):
        assert rounds.due is due


@pytest.mark.parametrize(
    ("rank", "told", "beside"),
    [
        (0, {"in_flight": False, "validating": False}, False),
        (0, {"in_flight": True, "validating": False}, True),
        (0, {"in_flight": False, "validating": True}, True),
        (1, {"in_flight": False, "validating": True}, False),
    ],
)
def test_a_step_beside_a_save_or_a_validation_is_no_quiet_one(
    rank: int, told: dict[str, bool], *, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only rank 0 chooses the interval, and only it asks its node's agent."""
    steps: list[bool] = []

    class Controller:
        def __init__(self, _: object) -> None: ...

        def stepped(self, *, beside: bool) -> None:
            steps.append(beside)

    monkeypatch.setattr("ray_workers.deciding.IntervalController", Controller)
    pipeline = SimpleNamespace(news=lambda: DriverNews(validating=told["validating"]))
    context: Any = SimpleNamespace(rank=rank, interval=object(), pipeline=pipeline)
    saver: Any = SimpleNamespace(in_flight=told["in_flight"])
    Decider(context, saver, step=0, epoch=0, committed_step=-1).stepped()
    assert steps == [beside]


def in_order(data: TensorDataset) -> Any:
    return DataLoader(data, batch_size=4)


def iterator(data: TensorDataset) -> Any:
    return iter(in_order(data))


def test_data_without_a_place_is_refused_where_the_interval_is_chosen(tmp_path: Path) -> None:
    run = process(tmp_path, every_epochs=1)

    def loop(config: dict[str, Any]) -> None:
        object.__setattr__(current_context(), "interval", object())
        gathering_loop(iterator)(config)

    with pytest.raises(InvalidInputError, match="interval = 'fixed'"):
        run.attempt(loop, {"epochs": 1})


def test_what_the_model_makes_inexact_is_said_when_the_session_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[int] = []
    monkeypatch.setattr(
        "ray_workers.session.announce_arithmetic",
        lambda _, *, world_size: said.append(world_size),
    )
    process(tmp_path, every_epochs=1).attempt(gathering_loop(in_order), {"epochs": 1})
    assert said == [1]


@pytest.mark.parametrize(("make", "kept"), [(in_order, 2), (iterator, -1)])
def test_an_interruption_saves_in_mid_epoch_only_what_can_go_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, kept: int
) -> None:
    run = process(tmp_path, every_epochs=1)
    asked = itertools.count(1)
    request = StopRequest(reason="interrupted", cause="SIGTERM", grace_s=60.0)
    monkeypatch.setattr(
        InProcessPipeline, "stop_request", lambda _: request if next(asked) >= 2 else None
    )
    monkeypatch.setattr(AgreementPace, "steps_between", lambda *_: 1)
    with pytest.raises(AttemptInterruptedError) as ended:
        run.attempt(gathering_loop(make), {"epochs": 1})
    assert ended.value.details == {"step": 2, "committed_step": kept}
    assert steps(run) == ([] if kept < 0 else [kept])


def test_data_without_a_place_is_saved_between_epochs_even_if_batches_wait(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = process(tmp_path, every_epochs=1)
    with caplog.at_level(logging.WARNING, logger="pawl"):
        run.attempt(gathering_loop(iterator, gather=4), {"epochs": 1})
    assert steps(run) == [2]
    assert "lacks their gradients" in caplog.text


def too_small_for_a_batch(data: TensorDataset) -> Any:
    return DataLoader(data, batch_size=1 + len(data), drop_last=True)


class OnceOnly:
    """Each epoch but the first is empty, as of what reads a stream that is used up."""

    def __init__(self, data: TensorDataset) -> None:
        self._batches = iter(in_order(data))

    def __iter__(self) -> Any:
        return self._batches


@pytest.mark.parametrize(
    ("make", "epoch", "why"),
    [
        (too_small_for_a_batch, 1, "smaller than one batch with drop_last=True"),
        (OnceOnly, 2, "is its data set empty"),
        (iterator, 2, "Give what makes the iterator"),
        (lambda _: [], 1, "is its data set empty"),
    ],
)
def test_an_epoch_without_a_batch_is_an_error_and_never_a_finished_run(
    tmp_path: Path, make: Any, epoch: int, why: str
) -> None:
    run = process(tmp_path, every_epochs=1)
    with pytest.raises(InvalidInputError, match=f"no batch in the whole of epoch {epoch}.*{why}"):
        run.attempt(gathering_loop(make))
    assert steps(run) == ([BATCHES] if epoch > 1 else [])


def test_batches_without_a_loader_are_an_error_and_never_a_finished_run(tmp_path: Path) -> None:
    run = process(tmp_path, every_epochs=1)
    with pytest.raises(InvalidInputError, match="opened without a loader"):
        run.attempt(gathering_loop(lambda _: None))
    assert steps(run) == []


def test_an_epoch_whose_batches_were_all_taken_before_the_resume_is_no_empty_one(
    tmp_path: Path,
) -> None:
    run = process(tmp_path, every_steps=1)
    with pytest.raises(Killed):  # behind the last batch of the first epoch
        run.attempt(gathering_loop(Lengthless, die_at=BATCHES + 1))
    run.attempt(gathering_loop(Lengthless))
    assert run.newest_manifest().progress.step == 3 * BATCHES


@pytest.mark.parametrize("epochs", [float("inf"), float("nan"), 2.0, 2.5, "3", None, -1])
def test_a_number_of_epochs_that_no_version_could_hold_is_refused_ahead_of_the_first_batch(
    tmp_path: Path, epochs: Any
) -> None:
    run = process(tmp_path, every_steps=1)
    with pytest.raises(
        InvalidInputError, match=f"asked for {epochs!r} epochs: give a whole number"
    ):
        run.attempt(gathering_loop(in_order, epochs_as=lambda _: epochs))
    assert steps(run) == []


def test_a_whole_number_of_another_kind_is_one(tmp_path: Path) -> None:
    run = process(tmp_path, every_epochs=1)
    run.attempt(gathering_loop(in_order, epochs_as=np.int64), {"epochs": 1})
    assert run.newest_manifest().progress.epochs_wanted == 1
