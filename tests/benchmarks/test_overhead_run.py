import argparse
import json
from dataclasses import asdict

import pytest

from benchmarks.overhead_run import (
    BUDGET,
    WARM,
    Outcome,
    config_of,
    earlier_runs,
    outcome_of,
    overhead_page,
    saving,
)
from benchmarks.turns import Mark, Stretch
from ray_workers.loops.gpt import Settings
from ray_workers.loops.settings import read_settings


def run_of(*with_saves):
    """Pairs with so many seconds for 100 steps with saves, and 100 s without."""
    stretches = []
    for number, seconds in enumerate(with_saves):
        two = [
            Stretch(saving=True, steps=100, seconds=seconds),
            Stretch(saving=False, steps=100, seconds=100.0),
        ]
        stretches += two if number % 2 == 0 else two[::-1]
    return Outcome(stretches=tuple(stretches), cost_s=0.5, interval_s=25.0)


@pytest.mark.parametrize(
    ("with_saves", "verdict"),
    [
        ([101, 102, 103, 104, 104.9] * 3, "within the budget"),
        ([101, 102, 103, 106, 109] * 3, "not resolved"),
        ([106, 107, 108, 107, 108] * 3, "above the budget"),
        ([101, 102, 103, 104], "not resolved"),
    ],
)
def test_the_worse_end_of_the_interval_decides(with_saves, verdict):
    assert f"**{verdict}**" in overhead_page([run_of(*with_saves)], saves=4)


def test_every_pair_is_a_row_and_every_run_says_what_it_measured_itself():
    page = overhead_page([run_of(104.0, 102.0), run_of(103.0)], saves=4)
    assert "| 1 | 1 | 100 | 100 | 1040 ms | 1000 ms | 4.0 % |" in page
    assert "| 1 | 2 | 100 | 100 | 1020 ms | 1000 ms | 2.0 % |" in page
    assert "| 2 | 1 | 100 | 100 | 1030 ms | 1000 ms | 3.0 % |" in page
    assert "median 3.0 %, 95 % interval 2.0 % to 4.0 %, 3 pairs" in page
    assert "| 2 | 25.0 s | 0.50 s | 2.0 % |" in page  # 0.5 s in each of 25.25 s


def test_what_the_controller_learned_before_the_first_pair_does_not_count():
    marks = [Mark(saving=saves, step=step, at_s=step / 4) for saves, step in ((True, 20), (False, 60), (False, 100))]  # fmt: skip
    versions = [{"durations": {"interval_s": 2.0}}] * WARM
    versions += [{"durations": {"interval_s": 6.0, "last_save_cost_s": cost}} for cost in (0.1, 0.3)]  # fmt: skip
    found = outcome_of(marks, [*versions, {"durations": {}}])
    assert found.cost_s == pytest.approx(0.2)
    assert found.interval_s == 6.0
    with_saves, bare = (Stretch(saving=saves, steps=40, seconds=10.0) for saves in (True, False))
    assert found.pairs == [(with_saves, bare)]


def test_the_run_is_one_that_the_flow_takes(tmp_path):
    assert (saving().interval, saving().overhead_budget) == ("auto", BUDGET)
    options = argparse.Namespace(steps=200, width=384, saves=4)
    settings = config_of(options, tmp_path / "marks.json")
    assert settings.pop("marks") == str(tmp_path / "marks.json")
    assert (settings.pop("saves"), settings.pop("warm")) == (4, WARM)
    assert read_settings(Settings, settings).steps_per_epoch == 200


def test_runs_of_an_earlier_sitting_count(tmp_path):
    journal = tmp_path / "runs.jsonl"
    assert earlier_runs(None) == earlier_runs(journal) == []
    runs = [run_of(104.0), run_of(102.0, 101.0)]
    journal.write_text("".join(f"{json.dumps(asdict(one))}\n" for one in runs))
    assert earlier_runs(journal) == runs
