"""The table of the matrices says what passed on the code as it is, and what has not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.journal_plugin import Collected, Line
from tests.support.matrix_table import BEGIN, END, Row, rows_of, standing, where, write_into

SOURCE = '"""Kills\nthings.\n\nMore.\n"""\nimport pytest\n\n@pytest.mark.fault\ndef test_one():\n    pass\n'
ONE, TWO, CALM = (
    "tests/test_kills.py::test_one",
    "tests/test_kills.py::test_two",
    "tests/test_calm.py::test_one",
)


def line(test: str, outcome: str = "passed", code: str = "now") -> Line:
    return Line(test=test, outcome=outcome, code=code, commit="c", seconds=1.0)


def wanted(*tests: str, gpu: bool = False) -> list[Collected]:
    return [Collected(test=test, gpu=gpu) for test in tests]


def rows(folder: Path, what: list[Collected], *lines: Line) -> list[Row]:
    (folder / "tests").mkdir(exist_ok=True)
    (folder / "tests/test_kills.py").write_text(SOURCE)
    (folder / "tests/test_calm.py").write_text('"""Calm."""\n')
    return rows_of(standing(what, lines, lambda _: "now"), folder)


def test_modules_that_break_something_have_a_row_of_what_passed(tmp_path: Path) -> None:
    found = rows(tmp_path, wanted(ONE, TWO, CALM), line(ONE), line(TWO), line(CALM))
    assert found == [Row(module="tests/test_kills.py", about="Kills things.", passed=2)]


def test_what_failed_first_and_passed_on_the_same_code_is_told(tmp_path: Path) -> None:
    lines = [line(ONE, "failed"), line(ONE), line(TWO, "failed", "before"), line(TWO)]
    (row,) = rows(tmp_path, wanted(ONE, TWO), *lines)
    assert (row.passed, row.twice) == (2, 1)


@pytest.mark.parametrize(
    ("lines", "how"),
    [
        ([], "missing"),
        ([line(ONE, "skipped")], "missing"),
        ([line(ONE, "failed")], "failed"),
        ([line(ONE, code="before"), line(ONE, "failed")], "failed"),
        ([line(ONE, "failed", "before")], "failed"),
        ([line(ONE, code="before")], "before"),
        ([line(ONE, "failed", "before"), line(ONE, code="before")], "before"),
        ([line(ONE, "failed", "before"), line(ONE)], "passed"),
        ([line(ONE, "failed"), line(ONE)], "again"),
    ],
)
def test_only_what_passed_on_the_present_code_counts_as_passed(lines: list[Line], how: str) -> None:
    assert standing(wanted(ONE), lines, lambda _: "now") == {ONE: how}


def test_only_what_needs_a_gpu_may_be_skipped() -> None:
    skipped = line(CALM, "skipped")
    assert standing(wanted(CALM, gpu=True), [skipped], lambda _: "now") == {}
    assert standing(wanted(CALM), [skipped], lambda _: "now") == {CALM: "missing"}


def test_the_sentence_tells_how_many_and_where() -> None:
    lines = [line(ONE), line(TWO, code="before"), line(CALM, "failed")]
    found = standing(wanted(ONE, TWO, CALM, "tests/test_kills.py::new"), lines, lambda _: "now")
    assert where(found, lines, lambda _: "now").startswith(
        "1 of 4 tests passed on the code of this page (at c); 1 passed on earlier code and have not run since (at c); "
        "1 failed; 1 were not played. Python "
    )


def test_the_table_stands_between_its_markers_and_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    row = Row(module="tests/test_kills.py", about="Kills.", passed=2, failed=1)
    text = write_into(write_into(page, [row], "Here."), [row], "Here.")
    assert text.count("| `tests/test_kills.py` | Kills. | 2 |  | 1 |  |  |") == 1
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    with pytest.raises(ValueError, match="lacks the markers"):
        write_into("nothing", [], "Here.")
