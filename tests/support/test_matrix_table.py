"""The table of the matrices says what passed, and nothing at all while something has not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.journal_plugin import Collected, Line
from tests.support.matrix_table import BEGIN, END, Row, rows_of, write_into

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
    return rows_of(what, lines, lambda _: "now", folder)


def test_modules_that_break_something_have_a_row_of_what_passed(tmp_path: Path) -> None:
    found = rows(tmp_path, wanted(ONE, TWO, CALM), line(ONE), line(TWO), line(CALM))
    assert found == [Row(module="tests/test_kills.py", about="Kills things.", cases=2)]


def test_what_failed_first_and_passed_on_the_same_code_is_told(tmp_path: Path) -> None:
    lines = [line(ONE, "failed"), line(ONE), line(TWO, "failed", "before"), line(TWO)]
    (row,) = rows(tmp_path, wanted(ONE, TWO), *lines)
    assert (row.cases, row.twice) == (2, 1)


@pytest.mark.parametrize(
    "other",
    [[], [line(CALM, "failed")], [line(CALM, code="before")]],
    ids=["never ran", "failed", "passed on other code"],
)
def test_one_test_that_has_not_passed_and_there_is_no_evidence(
    tmp_path: Path, other: list[Line]
) -> None:
    with pytest.raises(ValueError, match=r"1 of 2 tests .*test_calm"):
        rows(tmp_path, wanted(ONE, CALM), line(ONE), *other)


def test_only_what_needs_a_gpu_may_be_skipped(tmp_path: Path) -> None:
    skipped = line(CALM, "skipped")
    assert rows(tmp_path, [*wanted(ONE), *wanted(CALM, gpu=True)], line(ONE), skipped)
    with pytest.raises(ValueError, match="test_calm"):
        rows(tmp_path, wanted(ONE, CALM), line(ONE), skipped)


def test_a_run_without_tests_is_none_either(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 of 0"):
        rows(tmp_path, [])


def test_the_table_stands_between_its_markers_and_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    row = Row(module="tests/test_kills.py", about="Kills.", cases=2)
    text = write_into(write_into(page, [row], "Here."), [row], "Here.")
    assert text.count("| `tests/test_kills.py` | Kills. | 2 |  |") == 1
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    with pytest.raises(ValueError, match="lacks the markers"):
        write_into("nothing", [], "Here.")
