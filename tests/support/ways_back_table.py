"""What each way back cost, as one row a failure: kept as JSON lines while it is measured, written into the docs at the end.

python -m tests.support.ways_back_table build/ways-back.jsonl docs/reliability.md
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["BEGIN", "END", "Row", "table", "write_into"]

BEGIN = "<!-- ways back: written by make ways-back -->"
END = "<!-- ways back: end -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    order: int
    failure: str
    back: str
    """What brings it back, and who must do something."""
    steps: int
    """Optimizer steps done twice, of rank 0."""
    seconds: float | None
    """From the failure to the first step after it; None: training never stood still."""


def add(path: Path, row: Row) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as out:
        out.write(json.dumps(asdict(row)) + "\n")


def read(path: Path) -> list[Row]:
    rows = [Row(**json.loads(line)) for line in path.read_text().splitlines()]
    newest = {row.order: row for row in rows}
    return [newest[order] for order in sorted(newest)]


def table(rows: list[Row]) -> str:
    lines = [
        "| failure | way back | steps done again | seconds without training |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row.failure} | {row.back} | {row.steps} | "
        f"{'0' if row.seconds is None else f'{row.seconds:.0f}'} |"
        for row in rows
    ]
    return "\n".join(lines)


def write_into(text: str, rows: list[Row]) -> str:
    """`text` with what stands between the markers replaced. Raises `ValueError` if they are not there."""
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"the page lacks the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{after}"


if __name__ == "__main__":
    page = Path(sys.argv[2])
    page.write_text(write_into(page.read_text(), read(Path(sys.argv[1]))))
