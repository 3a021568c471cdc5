"""The table of ways back is made of the newest measurement of each failure, between its markers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ways_back_table import BEGIN, END, Row, add, read, table, write_into


def row(order: int, steps: int, seconds: float | None = 3.4) -> Row:
    return Row(order=order, failure=f"f{order}", back="by itself", steps=steps, seconds=seconds)


def test_the_newest_measurement_counts(tmp_path: Path) -> None:
    path = tmp_path / "build" / "rows.jsonl"
    for one in (row(2, 1), row(1, 5), row(2, 7, None)):
        add(path, one)
    assert read(path) == [row(1, 5), row(2, 7, None)]


def test_the_table_replaces_what_is_between_the_markers() -> None:
    page = f"# Title\n\n{BEGIN}\nold\n{END}\nrest\n"
    done = write_into(page, [row(1, 5), row(2, 0, None)])
    assert done == write_into(done, [row(1, 5), row(2, 0, None)])
    assert "old" not in done
    assert done.startswith("# Title\n")
    assert done.endswith("rest\n")
    assert "| f1 | by itself | 5 | 3 |\n| f2 | by itself | 0 | 0 |" in done
    assert table([]) in write_into(page, [])


def test_a_page_without_markers_is_left_alone() -> None:
    with pytest.raises(ValueError, match="lacks the markers"):
        write_into("# Title\n", [])
