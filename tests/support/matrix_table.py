"""What `make test-all` killed and damaged, as one row a module of tests, from pytest's own report of the run.

python -m tests.support.matrix_table docs/reliability.md build/test-all.xml [build/test-all-again.xml]
"""

from __future__ import annotations

import ast
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree as ET

__all__ = ["BEGIN", "END", "Row", "rows_of", "write_into"]

BEGIN = "<!-- matrices: written by make test-all -->"
END = "<!-- matrices: end -->"
_BREAKS_SOMETHING = re.compile(r"pytest\.mark\.(fault|slow)\b")
_BAD = ("failure", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    module: str
    about: str
    cases: int
    alone: int = 0
    """Of these, how many failed beside others and passed when they ran once more alone."""


def rows_of(reports: Sequence[Path], root: Path) -> list[Row]:
    """A row for each module that kills, damages or plays a full matrix.

    Args:
        reports: JUnit XML that pytest wrote: of the run, and of what ran once more alone, if anything did. What a later
            report says of a test holds; the row counts what failed before.
        root: folder of the repository, where the modules are.

    Raises:
        ValueError: a test failed in the end, or nothing was run: such a run is no evidence.
    """
    first, last = _by_test(reports[:1]), _by_test(reports)
    if bad := [name for (_, name), case in last.items() if _failed(case)]:
        raise ValueError(
            f"{len(bad)} tests failed, {bad[0]} among them: the page keeps what it says"
        )
    passed = [key for key, case in last.items() if case.find("skipped") is None]
    if not passed:
        raise ValueError("no test passed: the page keeps what it says")
    twice = [key for key in passed if key in first and _failed(first[key])]
    return _rows(Counter(map(_module_of, passed)), Counter(map(_module_of, twice)), root)


def _by_test(reports: Iterable[Path]) -> dict[tuple[str, str], ET.Element]:
    return {
        (case.get("classname", ""), case.get("name", "")): case
        for report in reports
        for case in ET.parse(report).iter("testcase")  # noqa: S314 - pytest wrote it a moment ago
    }


def _failed(case: ET.Element) -> bool:
    return any(case.find(kind) is not None for kind in _BAD)


def _rows(counts: Counter[str], twice: Counter[str], root: Path) -> list[Row]:
    found = []
    for module, count in sorted(counts.items()):
        source = (root / module).read_text()
        if _BREAKS_SOMETHING.search(source):
            about = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0]
            about = " ".join(about.split())
            found.append(Row(module=module, about=about, cases=count, alone=twice[module]))
    return found


def _module_of(test: tuple[str, str]) -> str:
    return _module(test[0])


def _module(classname: str) -> str:
    """`tests.integration.test_x` or, for a test in a class, `tests.integration.test_x.TestY`."""
    parts = classname.split(".")
    last = max(
        (i for i, part in enumerate(parts) if part.startswith("test_")), default=len(parts) - 1
    )
    return "/".join(parts[: last + 1]) + ".py"


def write_into(text: str, rows: Iterable[Row], where: str) -> str:
    """`text` with what stands between the markers replaced. Raises `ValueError` if they are not there."""
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"the page lacks the markers {BEGIN} and {END}")
    lines = [where, "", "| tests | what they do | passed | only when alone |", "|---|---|---|---|"]
    lines += [
        f"| `{row.module}` | {row.about.replace('|', '/')} | {row.cases} | {row.alone or ''} |"
        for row in rows
    ]
    return f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}"


def _here(root: Path) -> str:
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    parts = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "prefect"))
    return (
        f"At {commit}, none failed in the end. Python {platform.python_version()}, {parts}, {os.cpu_count()} cores, "
        f"{platform.system()}."
    )


if __name__ == "__main__":
    here, page = Path.cwd(), Path(sys.argv[1])
    reports = [path for path in map(Path, sys.argv[2:]) if path.exists()]
    page.write_text(write_into(page.read_text(), rows_of(reports, here), _here(here)))
