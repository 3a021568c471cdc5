"""The table of interruptions has a row for every cell, or it is not written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.interruption_cells import CELLS, INTERRUPTIONS, Cluster, Stage
from tests.support.interruption_table import BEGIN, END, Row, add, read, table, write_into


def row(cell: str, seconds: float = 3.44, **values: bool) -> Row:
    became = {"in_flight": True, "interrupted": True} | values
    return Row(
        cell=cell, steps_lost=0, state="Crashed", exit_code=130, grace_s=6, seconds=seconds, **became
    )  # fmt: skip


def test_every_interruption_meets_every_stage_on_every_cluster_on_which_it_can_come() -> None:
    keys = {cell.key for cell in CELLS}
    assert len(keys) == len(CELLS)
    both = ("ctrl_c", "sigterm", "cancel", "time_limit")
    wanted = {f"{key}-{cluster}-{stage}" for key in both for cluster in Cluster for stage in Stage}
    wanted |= {f"{key}-separate-{stage}" for key in ("draining", "job") for stage in Stage}
    assert {cell.key for cell in CELLS if cell.goes_on} == wanted
    for_ever = [cell for cell in CELLS if not cell.goes_on]
    assert {cell.asked.key for cell in for_ever} == {asked.key for asked in INTERRUPTIONS}
    assert {(cell.cluster, cell.stage) for cell in for_ever} == {
        (cluster, stage) for cluster in Cluster for stage in Stage
    }


def test_each_interruption_comes_back_once() -> None:
    back = [cell.asked.key for cell in CELLS if cell.comes_back]
    assert back == [asked.key for asked in INTERRUPTIONS]


def test_the_newest_row_of_each_cell_counts(tmp_path: Path) -> None:
    path = tmp_path / "build" / "rows.jsonl"
    for cell in reversed(CELLS):
        add(path, row(cell.key, 1.0))
    add(path, row(CELLS[3].key, 9.0))
    rows = read(path)
    assert [one.cell for one in rows] == [cell.key for cell in CELLS]
    assert [one.seconds for one in rows].index(9.0) == 3


def test_without_one_cell_nothing_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for cell in CELLS[:-1]:
        add(path, row(cell.key))
    with pytest.raises(
        ValueError, match=rf"1 of {len(CELLS)} cells are missing, as {CELLS[-1].key}"
    ):
        read(path)


def test_the_table_replaces_what_is_between_the_markers() -> None:
    page = f"# Title\n\n{BEGIN}\nold\n{END}\nrest\n"
    for_ever = next(cell.key for cell in CELLS if not cell.goes_on)
    rows = [row(CELLS[0].key), row(for_ever, in_flight=False, interrupted=False)]
    done = write_into(page, rows)
    assert done == write_into(done, rows)
    assert "old" not in done
    assert done.startswith("# Title\n")
    assert done.endswith("rest\n")
    end = "0 | Crashed, exit code 130 | 6 | 3.4 |"
    assert f"| Ctrl-C | local | staged | version | version | {end}" in done
    assert f"| Ctrl-C | local | staged, for ever | no trace | no trace | {end}" in done
    assert table([]) in write_into(page, [])


def test_a_page_without_markers_is_left_alone() -> None:
    with pytest.raises(ValueError, match="lacks the markers"):
        write_into("# Title\n", [])
