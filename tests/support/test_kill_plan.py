from collections import Counter

import pytest

from tests.support.kill_plan import (
    BEGIN,
    END,
    LOOPS,
    TARGETS,
    Row,
    add,
    draw,
    missing,
    read,
    table,
    write_into,
)


def drawn(count, seed):
    return draw(count, seed, loops=tuple(LOOPS), targets=tuple(TARGETS))


def test_a_seed_gives_the_same_kills_every_time_and_another_seed_others():
    assert drawn(30, 7) == drawn(30, 7)
    assert drawn(30, 7) != drawn(30, 8)


@pytest.mark.parametrize("seed", range(5))
def test_every_target_is_met_as_often_in_both_loops(seed):
    runs = drawn(30, seed)
    met = Counter((kill.loop, kill.target) for run in runs for kill in run)
    assert set(met.values()) == {3}
    assert len(met) == len(LOOPS) * len(TARGETS)
    assert all(kill.after >= 1 and kill.delay_s >= 0 for run in runs for kill in run)
    assert all(0 <= kill.which < 1 for run in runs for kill in run)
    assert {run[-1].target for run in runs} == {"raylet"}
    # A run of 196 steps has 39 versions and more.
    assert max(sum(kill.after + 1 for kill in run) for run in runs) <= 15


def test_a_smaller_number_is_kept():
    assert [len(run) for run in drawn(7, 1)] == [5, 2]


def row(**more):
    return Row(**{"commit": "abc", "seed": 7, "run": 0, "loop": "gpt", "target": "flow", "step": 20, "seconds": 31.4,
                  "started_again": True, "identical": True, **more})  # fmt: skip


def test_the_table_is_made_of_every_run(tmp_path):
    path = tmp_path / "build" / "kills.jsonl"
    add(path, [row(), row(run=1, seconds=9.0)])
    add(path, [row(seed=3, target="worker", started_again=False, identical=False)])
    text = table(read(path))
    assert "| gpt | the flow's process alone | 2 | 2 | 31 (31) | 2 of 2 |" in text
    assert "| gpt | one of the training workers | 1 | 0 | 31 (31) | 0 of 1 |" in text
    assert "| together | | 3 | 2 | 31 (31) | 2 of 3 |" in text
    assert text.endswith("Seeds: 3, 7. Played at commit abc.")


def test_a_run_is_missing_until_each_of_its_kills_ended_well(tmp_path):
    path = tmp_path / "kills.jsonl"
    runs = drawn(10, 7)
    assert missing(runs, 7, read(path)) == [0, 1]
    rows = [row(run=1, target=kill.target, loop=kill.loop) for kill in runs[1]]
    add(path, [*rows[:-1], row(run=1, target=rows[-1].target, identical=False)])
    assert missing(runs, 7, read(path)) == [0, 1]
    add(path, rows)  # played again, and all well
    assert missing(runs, 7, read(path)) == [0]
    assert missing(runs, 8, read(path)) == [0, 1]
    assert len(read(path)) == len(rows)


def test_only_what_stands_between_the_markers_is_replaced():
    page = f"before\n{BEGIN}\nold\n{END}\nafter"
    written = write_into(page, [row()])
    assert written.startswith("before\n")
    assert written.endswith("\nafter")
    assert "old" not in written
    with pytest.raises(ValueError, match="markers"):
        write_into("no markers", [row()])
