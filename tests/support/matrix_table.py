"""What `make test-all` killed and damaged, as one row a module of tests, from the journal of all its sessions.

python -m tests.support.matrix_table docs/reliability.md build/test-all.jsonl docs/matrices.jsonl
"""

from __future__ import annotations

import ast
import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.support.journal_plugin import Collected, Line, code_of, read_collected, read_journal

__all__ = ["BEGIN", "END", "Row", "rows_of", "write_into"]

BEGIN = "<!-- matrices: written by make test-all -->"
END = "<!-- matrices: end -->"
_BREAKS_SOMETHING = re.compile(r"pytest\.mark\.(fault|slow)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    module: str
    about: str
    cases: int
    twice: int = 0
    """Of these, how many failed before, on the same code, and passed when they ran again."""


def rows_of(
    wanted: Sequence[Collected], lines: Sequence[Line], code: Callable[[str], str], root: Path
) -> list[Row]:
    """A row for each module that kills, damages or plays a full matrix.

    Args:
        wanted: the tests that must have passed.
        lines: how tests ended, oldest first. Only what ran on the present code counts.
        code: from a test to the digest of the code that it runs on now.
        root: folder of the repository, where the modules are.

    Raises:
        ValueError: a test has not passed on the present code, one that was skipped included unless it needs a GPU: such a run is
            no evidence.
    """
    present = [line for line in lines if line.code == code(line.test)]
    passed = {line.test for line in present if line.outcome == "passed"}
    failed = {line.test for line in present if line.outcome == "failed"}
    skipped = {line.test for line in present if line.outcome == "skipped"}
    left = [
        item.test
        for item in wanted
        if item.test not in passed and not (item.gpu and item.test in skipped)
    ]
    if left or not passed:
        raise ValueError(
            f"{len(left)} of {len(wanted)} tests have not passed on the present code, {left[:1]} among them: the page keeps "
            "what it says"
        )
    done = [item.test for item in wanted if item.test in passed]
    again = [test for test in done if test in failed]
    return _rows(Counter(map(_module, done)), Counter(map(_module, again)), root)


def _rows(counts: Counter[str], twice: Counter[str], root: Path) -> list[Row]:
    found = []
    for module, count in sorted(counts.items()):
        source = (root / module).read_text()
        if _BREAKS_SOMETHING.search(source):
            about = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0]
            about = " ".join(about.split())
            found.append(Row(module=module, about=about, cases=count, twice=twice[module]))
    return found


def _module(test: str) -> str:
    return test.partition("::")[0]


def write_into(text: str, rows: Iterable[Row], where: str) -> str:
    """`text` with what stands between the markers replaced. Raises `ValueError` if they are not there."""
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"the page lacks the markers {BEGIN} and {END}")
    lines = [
        where,
        "",
        "| tests | what they do | passed | only when run again |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{row.module}` | {row.about.replace('|', '/')} | {row.cases} | {row.twice or ''} |"
        for row in rows
    ]
    return f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}"


def _where(lines: Iterable[Line]) -> str:
    commits = ", ".join(dict.fromkeys(line.commit for line in lines))
    parts = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "prefect"))
    return (
        f"Every test passed on the code of this page. Played at {commits}; Python {platform.python_version()}, {parts}, "
        f"{os.cpu_count()} cores, {platform.system()}."
    )


if __name__ == "__main__":
    here, page, journal, slow = Path.cwd(), *map(Path, sys.argv[1:])
    code, lines = code_of(here), [*read_journal(slow), *read_journal(journal)]
    rows = rows_of(read_collected(journal), lines, code, here)
    ran = [line for line in lines if line.code == code(line.test) and line.outcome == "passed"]
    page.write_text(write_into(page.read_text(), rows, _where(ran)))
