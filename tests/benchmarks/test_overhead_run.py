import json
from dataclasses import asdict

import pytest

from benchmarks.overhead_run import (
    BUDGET,
    Outcome,
    config_of,
    earlier_pairs,
    overhead_page,
    saving_of,
)
from ray_workers.loops.gpt import Settings
from ray_workers.loops.settings import read_settings


def pair(saving_s, bare_s=100.0):
    account = {"in_force_s": 4.0, "measured": {"overhead": 0.031}}
    return Outcome(saving_s=saving_s, bare_s=bare_s, steps=200, account=account, versions=9)


@pytest.mark.parametrize(
    ("with_saves", "verdict"),
    [
        ([101, 102, 103, 104, 104.9], "within the budget"),
        ([101, 102, 103, 104, 109], "not resolved"),
        ([106, 107, 108, 107, 108], "above the budget"),
        ([101, 102, 103, 104], "not resolved"),
    ],
)
def test_the_worse_end_of_the_interval_decides(with_saves, verdict):
    page = overhead_page([pair(seconds) for seconds in with_saves])
    assert f"**{verdict}**" in page


def test_every_pair_is_a_row_with_what_pawl_says_itself():
    page = overhead_page([pair(104.0), pair(102.0)])
    assert "| 1 | 200 | 104.0 s | 100.0 s | 4.0 % | 9 | 4.0 s | 3.1 % |" in page
    assert "median 3.0 %" in page


def test_both_runs_are_ones_that_the_flow_takes(tmp_path):
    saving = saving_of(saves=True)
    assert (saving.interval, saving.overhead_budget) == ("auto", BUDGET)
    assert saving_of(saves=False).interval == "fixed"
    settings = config_of(200, 384, tmp_path / "times.json")
    assert settings.pop("times") == str(tmp_path / "times.json")
    assert read_settings(Settings, settings).steps_per_epoch == 200


def test_pairs_of_an_earlier_sitting_count(tmp_path):
    journal = tmp_path / "pairs.jsonl"
    assert earlier_pairs(None) == earlier_pairs(journal) == []
    pairs = [pair(104.0), pair(102.0)]
    journal.write_text("".join(f"{json.dumps(asdict(one))}\n" for one in pairs))
    assert earlier_pairs(journal) == pairs
