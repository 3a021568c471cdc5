from __future__ import annotations

import io
from pydoc_data.topics import topics
from types import SimpleNamespace

import pyarrow.parquet
import pytest
import torch
from torch.distributed.tensor import DTensor

from ray_workers.loops.gpt_model import GPT
from ray_workers.loops.language_reference import Windows, text_parquet, to_text
from ray_workers.store.opening import open_root
from tests.support.loop_group import run_group, run_loop

SMALL = {"epochs": 2, "steps_per_epoch": 4, "batch_size": 4, "block": 32, "width": 32}
STEPS = 4


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A folder with a root in it."""
    return open_root(str(tmp_path_factory.mktemp("gpt")), create=True).url


KILLS = [[1], [STEPS - 1], [STEPS], [STEPS + 1, 2 * STEPS - 1], [2 * STEPS]]
"""First step, amid an epoch, the last of an epoch, twice in one run, the last of all."""


@pytest.fixture(scope="module")
def whole(url, tmp_path_factory):
    """By rank: an uninterrupted run on two workers."""
    return run_group(tmp_path_factory.mktemp("ranks"), "gpt", url, [(SMALL, [])])[0]


@pytest.fixture(scope="module")
def others(url, tmp_path_factory):
    """From other processes: the same again, another seed, and the killed ones."""
    jobs = [(SMALL, []), ({**SMALL, "seed": 1}, []), *((SMALL, kills) for kills in KILLS)]
    again, seeded, *killed = run_group(tmp_path_factory.mktemp("ranks"), "gpt", url, jobs)
    return SimpleNamespace(again=again, seeded=seeded, killed=killed)


def test_one_worker_without_a_group_learns(url):
    config = {"epochs": 1, "steps_per_epoch": 40, "batch_size": 8, "lr": 3e-3}
    result, session = run_loop("gpt", url, config)
    assert len(result.losses) == 40
    assert result.losses[0] == pytest.approx(5.55, abs=0.1)  # ln 256
    assert sum(result.losses[-5:]) / 5 < 3.6
    assert not any(isinstance(p, DTensor) for p in session.parts["model"].parameters())


def test_two_equal_runs_are_bit_identical_and_another_seed_is_not(whole, others):
    assert others.again == whole
    assert [rank.losses for rank in others.seeded] != [rank.losses for rank in whole]


def test_ranks_begin_alike_and_then_draw_differently(whole):
    assert whole[0].first == whole[1].first
    assert whole[0].last != whole[1].last  # each holds its own shards
    assert whole[0].rng != whole[1].rng
    assert whole[0].losses != whole[1].losses


@pytest.mark.parametrize("case", range(len(KILLS)), ids=map(str, KILLS))
def test_a_run_killed_at_any_kind_of_step_resumes_bit_identically(whole, others, case):
    assert others.killed[case] == whole


@pytest.mark.slow
def test_three_workers_resume_bit_identically_too(url, tmp_path):
    whole, killed = run_group(tmp_path, "gpt", url, [(SMALL, []), (SMALL, [3])], world=3)
    assert killed == whole


def test_one_worker_begins_with_the_same_parameters_as_two(url, whole):
    alone, _ = run_loop("gpt", url, SMALL)
    assert alone.first == whole[0].first


def test_loader_workers_change_nothing(url):
    alone, with_two = (
        run_loop("gpt", url, {**SMALL, "loader_workers": workers})[0] for workers in (0, 2)
    )
    assert alone == with_two


def test_dropout_draws_in_attention_too():
    torch.manual_seed(0)
    model = GPT(block=8, layers=1, heads=2, width=16, dropout=0.5)
    window = torch.arange(9).unsqueeze(0)
    for block in model.modules():
        if isinstance(block, torch.nn.Dropout):
            block.p = 0.0
    assert model(window).item() != model(window).item()
    assert model.eval()(window).item() == model.eval()(window).item()


def test_no_byte_sees_what_comes_after_it():
    torch.manual_seed(0)
    model = GPT(block=8, layers=2, heads=2, width=16, dropout=0.0)
    window = torch.arange(9).unsqueeze(0)
    seen = []
    model.head.register_forward_hook(lambda _module, _given, made: seen.append(made))
    model(window)
    changed = window.clone()
    changed[0, 5] = 200
    model(changed)
    assert torch.equal(seen[0][0, :5], seen[1][0, :5])
    assert not torch.equal(seen[0][0, 5:], seen[1][0, 5:])


def test_the_text_is_cpythons_and_always_the_same_bytes():
    text = to_text(pyarrow.parquet.read_table(io.BytesIO(text_parquet())))
    assert bytes(text.numpy()).decode() == "\n\n".join(topics[name] for name in sorted(topics))
    assert text_parquet() == text_parquet()


def test_the_text_is_put_once(tmp_path):
    root = open_root(str(tmp_path), create=True)
    run_loop("gpt", root.url, SMALL)
    (stored,) = root.store.list("datasets/")
    run_loop("gpt", root.url, SMALL)
    assert list(root.store.list("datasets/")) == [stored]
    assert root.store.get(stored.key) == text_parquet()


def test_windows_lie_evenly_and_end_with_the_text():
    text = torch.arange(100, dtype=torch.uint8)
    windows = Windows(text, length=10, count=4)
    assert [windows[i][0].item() for i in range(len(windows))] == [0, 30, 60, 90]
    assert windows[3].tolist() == list(range(90, 100))
    assert Windows(text, length=10, count=1)[0].tolist() == list(range(10))
