"""The table of the matrices says what passed, and nothing at all when something failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.matrix_table import BEGIN, END, Row, rows_of, write_into

SOURCE = '"""Kills\nthings.\n\nMore.\n"""\nimport pytest\n\n@pytest.mark.fault\ndef test_one():\n    pass\n'


def report(tmp_path: Path, *cases: str, name: str = "report.xml") -> Path:
    (tmp_path / "tests").mkdir(exist_ok=True)
    (tmp_path / "tests/test_kills.py").write_text(SOURCE)
    (tmp_path / "tests/test_calm.py").write_text('"""Calm."""\n')
    path = tmp_path / name
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return path


def case(module: str, inner: str = "", name: str = "test_one") -> str:
    return f'<testcase classname="tests.{module}" name="{name}">{inner}</testcase>'


def test_modules_that_break_something_have_a_row_of_what_passed(tmp_path: Path) -> None:
    path = report(
        tmp_path, case("test_kills"), case("test_kills.TestMore"), case("test_kills", "<skipped/>", "test_two"), case("test_calm")
    )  # fmt: skip
    assert rows_of([path], tmp_path) == [
        Row(module="tests/test_kills.py", about="Kills things.", cases=2)
    ]


@pytest.mark.parametrize("inner", ["<failure/>", "<error/>"])
def test_a_run_in_which_something_failed_is_no_evidence(tmp_path: Path, inner: str) -> None:
    path = report(tmp_path, case("test_kills"), case("test_calm", inner))
    with pytest.raises(ValueError, match="1 tests failed, test_one"):
        rows_of([path], tmp_path)


def test_a_run_without_tests_is_none_either(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no test passed"):
        rows_of([report(tmp_path, case("test_kills", "<skipped/>"))], tmp_path)


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


def test_what_passed_only_when_it_ran_alone_is_counted_as_such(tmp_path: Path) -> None:
    beside = report(tmp_path, case("test_kills", "<failure/>"), case("test_kills.TestMore"))
    alone = report(tmp_path, case("test_kills"), name="again.xml")
    assert [(row.cases, row.alone) for row in rows_of([beside, alone], tmp_path)] == [(2, 1)]


def test_what_fails_alone_too_is_no_evidence(tmp_path: Path) -> None:
    beside = report(tmp_path, case("test_kills", "<failure/>"), case("test_calm"))
    alone = report(tmp_path, case("test_kills", "<failure/>"), name="again.xml")
    with pytest.raises(ValueError, match="1 tests failed, test_one"):
        rows_of([beside, alone], tmp_path)
