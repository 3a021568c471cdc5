"""What each interruption left and cost, one row a cell: kept as JSON lines while they are played, written into the docs at the end.

python -m tests.support.interruption_table build/interruptions.jsonl docs/reliability.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.interruption_cells import CELLS, Cell

__all__ = ["BEGIN", "END", "Row", "add", "read", "table", "write_into"]

BEGIN = "<!-- interruptions: written by make interruptions -->"
END = "<!-- interruptions: end -->"
_HEAD = (
    "who asks",
    "cluster",
    "the save in flight was",
    "what became of it",
    "the interrupted step",
    "steps lost",
    "the flow run ended as",
    "grace, s",
    "seconds to the end",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    cell: str
    """Its key."""
    in_flight: bool
    """The save in flight became a version."""
    interrupted: bool
    """The step that was interrupted did."""
    steps_lost: int
    """Optimizer steps of rank 0 behind the newest version."""
    state: str
    exit_code: int | None
    grace_s: float
    """For the last save, as the flow said."""
    seconds: float
    """From the request to the end of the process, or to the state where another one goes on."""


def add(path: Path, row: Row) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as out:
        out.write(json.dumps(asdict(row)) + "\n")


def read(path: Path) -> list[Row]:
    """The newest row of each cell, in the order of the cells.

    Raises:
        ValueError: cells are missing; they were not played, or did not pass.
    """
    newest = {row["cell"]: Row(**row) for row in map(json.loads, path.read_text().splitlines())}
    missing = [cell.key for cell in CELLS if cell.key not in newest]
    if missing:
        raise ValueError(f"{len(missing)} of {len(CELLS)} cells are missing, as {missing[0]}")
    return [newest[cell.key] for cell in CELLS]


def table(rows: Sequence[Row]) -> str:
    cells = {cell.key: cell for cell in CELLS}
    lines = [f"| {' | '.join(_HEAD)} |", "|" + "---|" * len(_HEAD)]
    lines += [_line(cells[row.cell], row) for row in rows]
    return "\n".join(lines)


def write_into(text: str, rows: Sequence[Row]) -> str:
    """`text` with what stands between the markers replaced. Raises `ValueError` if they are not there."""
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"the page lacks the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{after}"


def _line(cell: Cell, row: Row) -> str:
    became = {True: "version", False: "no trace"}
    code = "" if row.exit_code is None else f", exit code {row.exit_code}"
    columns = [
        cell.asked.told,
        cell.cluster,
        cell.stage if cell.goes_on else f"{cell.stage}, for ever",
        became[row.in_flight],
        became[row.interrupted],
        str(row.steps_lost),
        f"{row.state}{code}",
        f"{row.grace_s:.0f}",
        f"{row.seconds:.1f}",
    ]
    return f"| {' | '.join(columns)} |"


if __name__ == "__main__":
    page = Path(sys.argv[2])
    page.write_text(write_into(page.read_text(), read(Path(sys.argv[1]))))
