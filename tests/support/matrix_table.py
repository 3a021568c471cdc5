"""What `make test-all` killed and damaged, as one row a module of tests, from the journal of all its sessions.

Ends with 1 while a test has not passed on the present code; the table then says which are missing, and is written all the same.

python -m tests.support.matrix_table docs/reliability.md build/test-all.jsonl docs/matrices.jsonl
"""

from __future__ import annotations

import ast
import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.support.journal_plugin import Collected, Line, code_of, read_collected, read_journal

__all__ = ["BEGIN", "END", "Row", "rows_of", "standing", "where", "write_into"]

BEGIN = "<!-- matrices: written by make test-all -->"
END = "<!-- matrices: end -->"
_BREAKS_SOMETHING = re.compile(r"pytest\.mark\.(fault|slow)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """How the tests of one module stand."""

    module: str
    about: str
    passed: int = 0
    """On the present code."""
    before: int = 0
    """Passed when they last ran, on other code; not since."""
    failed: int = 0
    missing: int = 0
    """No outcome is known, or they were skipped."""
    twice: int = 0
    """Of the passed ones, how many failed before, on the same code, and passed when they ran again."""


def standing(
    wanted: Sequence[Collected], lines: Sequence[Line], code: Callable[[str], str]
) -> dict[str, str]:
    """From each wanted test to `passed`, `again`, `before`, `failed` or `missing`, as in `Row`.

    Args:
        wanted: the tests that must pass; those that need a GPU and were skipped for it are left out.
        lines: how tests ended, oldest first.
        code: from a test to the digest of the code that it runs on now.
    """
    found = {}
    for item in wanted:
        own = [line for line in lines if line.test == item.test]
        now = [line.outcome for line in own if line.code == code(item.test)]
        if not (item.gpu and own and own[-1].outcome == "skipped"):
            found[item.test] = _standing(now, own[-1].outcome if own else None)
    return found


def _standing(now: Sequence[str], last: str | None) -> str:
    if "passed" in now:
        return "again" if "failed" in now else "passed"
    if last == "failed":
        return "failed"
    return "before" if last == "passed" else "missing"


def rows_of(standing: Mapping[str, str], root: Path) -> list[Row]:
    """A row for each module that kills, damages or plays a full matrix; `root`: of the repository, where the modules are."""
    found = []
    for module in sorted(set(map(_module, standing))):
        source = (root / module).read_text()
        if _BREAKS_SOMETHING.search(source):
            about = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0]
            counts = Counter(how for test, how in standing.items() if _module(test) == module)
            found.append(
                Row(
                    module=module,
                    about=" ".join(about.split()),
                    passed=counts["passed"] + counts["again"],
                    before=counts["before"],
                    failed=counts["failed"],
                    missing=counts["missing"],
                    twice=counts["again"],
                )
            )
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
        "| tests | what they do | passed | passed before | failed | not played | only when run again |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        counts = (row.passed, row.before, row.failed, row.missing, row.twice)
        told = " | ".join(str(count or "") for count in counts)
        lines.append(f"| `{row.module}` | {row.about.replace('|', '/')} | {told} |")
    return f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}"


def where(standing: Mapping[str, str], lines: Iterable[Line], code: Callable[[str], str]) -> str:
    """What the table is of: how many tests, on which code, on which machine."""
    count = Counter(standing.values())
    passed = count["passed"] + count["again"]
    now, before = list[Line](), list[Line]()
    for line in lines:
        if line.outcome == "passed" and line.test in standing:
            (now if line.code == code(line.test) else before).append(line)
    told = [f"{passed} of {len(standing)} tests passed on the code of this page{_at(now)}"]
    if count["before"]:
        kept = [line for line in before if standing[line.test] == "before"]
        told.append(f"{count['before']} passed on earlier code and have not run since{_at(kept)}")
    told += [f"{count['failed']} failed"] if count["failed"] else []
    told += [f"{count['missing']} were not played"] if count["missing"] else []
    parts = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "prefect"))
    return (
        f"{'; '.join(told)}. Python {platform.python_version()}, {parts}, {os.cpu_count()} cores, "
        f"{platform.system()}."
    )


def _at(lines: Iterable[Line]) -> str:
    commits = ", ".join(dict.fromkeys(line.commit for line in lines))
    return f" (at {commits})" if commits else ""


def _write(page: Path, journal: Path, slow: Path) -> int:
    here = Path.cwd()
    code, lines = code_of(here), [*read_journal(slow), *read_journal(journal)]
    found = standing(read_collected(journal), lines, code)
    sentence = where(found, lines, code)
    page.write_text(write_into(page.read_text(), rows_of(found, here), sentence))
    sys.stdout.write(f"{sentence}\n")
    return 0 if found and set(found.values()) <= {"passed", "again"} else 1


if __name__ == "__main__":
    sys.exit(_write(*map(Path, sys.argv[1:])))
