from __future__ import annotations

import io
from types import SimpleNamespace

import pyarrow.parquet
import pytest
import torch
from sklearn.datasets import load_digits

from ray_workers.loops.digits import Settings, build, digits_parquet, to_samples
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.opening import open_root
from tests.support.loop_group import run_group, run_loop

SMALL = {"epochs": 2, "batch_size": 128, "hidden": 16}
STEPS = 7
"""Of an epoch of SMALL on two workers: 899 samples each."""


def digits():
    return to_samples(pyarrow.parquet.read_table(io.BytesIO(digits_parquet())))


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A folder with a root in it."""
    return open_root(str(tmp_path_factory.mktemp("digits")), create=True).url


KILLS = [[1], [3], [STEPS], [STEPS + 1, 2 * STEPS - 1], [2 * STEPS]]
"""First step, amid an epoch, the last of an epoch, twice in one run, the last of all."""


@pytest.fixture(scope="module")
def whole(url, tmp_path_factory):
    """By rank: an uninterrupted run on two workers."""
    return run_group(tmp_path_factory.mktemp("ranks"), "digits", url, [(SMALL, [])])[0]


@pytest.fixture(scope="module")
def others(url, tmp_path_factory):
    """From other processes: the same again, another seed, the defaults, and the killed ones."""
    jobs = [(SMALL, []), ({**SMALL, "seed": 1}, []), ({}, []), *((SMALL, kills) for kills in KILLS)]
    again, seeded, default, *killed = run_group(
        tmp_path_factory.mktemp("ranks"), "digits", url, jobs
    )
    return SimpleNamespace(again=again, seeded=seeded, default=default, killed=killed)


def test_one_worker_without_a_group_learns_the_digits(url):
    result, session = run_loop("digits", url, {})
    model = session.parts["model"].eval()
    pixels, labels = digits().tensors
    assert (model(pixels).argmax(dim=1) == labels).float().mean().item() > 0.93
    assert len(result.losses) == 6 * (1797 // 32)


def test_two_workers_learn_the_digits(others):
    for rank in others.default:
        last_epoch = rank.metrics[-28:]
        assert len(rank.metrics) == 6 * 28
        assert sum(step["accuracy"] for step in last_epoch) / 28 > 0.93


def test_two_equal_runs_are_bit_identical_and_another_seed_is_not(whole, others):
    assert others.again == whole
    assert [rank.losses for rank in others.seeded] != [rank.losses for rank in whole]


def test_ranks_begin_alike_and_then_draw_differently(whole):
    assert whole[0].first == whole[1].first
    assert whole[0].rng != whole[1].rng
    assert whole[0].losses != whole[1].losses


@pytest.mark.parametrize("case", range(len(KILLS)), ids=map(str, KILLS))
def test_a_run_killed_at_any_kind_of_step_resumes_bit_identically(whole, others, case):
    assert others.killed[case] == whole


@pytest.mark.slow
def test_three_workers_resume_bit_identically_too(url, tmp_path):
    whole, killed = run_group(tmp_path, "digits", url, [(SMALL, []), (SMALL, [3])], world=3)
    assert killed == whole


def test_loader_workers_change_nothing(url):
    alone, with_two = (
        run_loop("digits", url, {**SMALL, "loader_workers": workers})[0] for workers in (0, 2)
    )
    assert alone == with_two


def test_dropout_draws(url):
    dry, wet = (run_loop("digits", url, {**SMALL, "dropout": rate})[0] for rate in (0.0, 0.5))
    assert dry.losses != wet.losses


def test_batch_norm_keeps_buffers():
    model, _, _ = build(Settings(), digits())
    assert {name.rpartition(".")[2] for name, _ in model.named_buffers()} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def test_the_data_are_scikit_learns_and_always_the_same_bytes():
    pixels, labels = digits().tensors
    theirs = load_digits()
    assert torch.equal(pixels, torch.tensor(theirs.data / 16).float())
    assert torch.equal(labels, torch.tensor(theirs.target))
    assert digits_parquet() == digits_parquet()


def test_the_data_are_put_once(tmp_path):
    root = open_root(str(tmp_path), create=True)
    run_loop("digits", root.url, SMALL)
    (stored,) = root.store.list("datasets/")
    run_loop("digits", root.url, SMALL)
    assert list(root.store.list("datasets/")) == [stored]
    assert root.store.get(stored.key) == digits_parquet()


def test_a_batch_larger_than_a_workers_share_is_refused():
    with pytest.raises(InvalidInputError, match="the data set has only 1797"):
        build(Settings(batch_size=1798), digits())


def test_the_delay_is_slept_after_every_step(url, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr("ray_workers.loops.digits.time.sleep", slept.append)
    result, _ = run_loop("digits", url, {"epochs": 1, "step_delay": 0.5})
    assert slept == [0.5] * len(result.losses)
