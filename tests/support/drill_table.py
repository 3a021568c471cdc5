"""What restore drills on the S3 server took, by phase: kept as JSON lines while they are made, written into the docs at the end.

python -m tests.support.drill_table build/drills.jsonl docs/reliability.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["BEGIN", "END", "add", "table", "write_into"]

BEGIN = "<!-- drills: written by make drills -->"
END = "<!-- drills: end -->"
_PHASES = {
    "verify_s": "read back",
    "cluster_s": "cluster",
    "start_s": "workers",
    "restore_s": "restore",
    "first_step_s": "first step",
    "seconds": "together",
}


def add(path: Path, what: str, evidence: Mapping[str, Any]) -> None:
    """Keep one drill that passed, as its event told it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as out:
        out.write(json.dumps({"what": what, **evidence}) + "\n")


def table(drills: Sequence[Mapping[str, Any]]) -> str:
    """One line for each, seconds by phase, in the order of `_PHASES`."""
    head = ["version of", "workers", *_PHASES.values(), "loss probe", "loss of the step"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for one in drills:
        seconds = [f"{one[name]:.2f}" if name in one else "" for name in _PHASES]
        probe = "equal" if one["probe_saved"] == one["probe_read"] else "differs"
        step = {True: "bit-identical", False: "differs", None: "no next step"}
        cells = [one["what"], str(one["workers"]), *seconds, probe, step[one.get("bit_identical")]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_into(text: str, drills: Sequence[Mapping[str, Any]]) -> str:
    """`text` with what stands between the markers replaced. Raises `ValueError` if they are not there."""
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"the page lacks the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table(drills)}\n\n{END}{after}"


if __name__ == "__main__":
    page = Path(sys.argv[2])
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    page.write_text(write_into(page.read_text(), rows))
