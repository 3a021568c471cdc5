"""Every object of a stored run damaged in every way, at every rung; writes what came of it into docs/reliability.md.

python -m tests.support.corruption_campaign --report docs/reliability.md
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ray_workers.store.run_state import RUNGS
from tests.support.corruption import KINDS, Base, Finding, cases, make_bases, play

__all__ = ["BEGIN", "END", "Tally", "main", "table", "write_into"]

BEGIN = "<!-- corruption: written by make campaign -->"
END = "<!-- corruption: end -->"
_WORDS = {
    "shards": "shard",
    "manifests": "manifest",
    "log": "log record",
    "folds": "fold cache",
}


@dataclass(slots=True)
class Tally:
    """What came of the cases of one kind of object, at one rung."""

    played: int = 0
    visible: int = 0
    named: int = 0
    resumed_bad: int = 0
    right: int = 0
    bad: list[str] = field(default_factory=list)

    def count(self, finding: Finding) -> None:
        self.played += 1
        self.visible += finding.visible
        self.named += finding.visible and finding.named
        self.resumed_bad += not finding.clean
        self.right += finding.right
        if not finding.good:
            self.bad.append(str(finding.case))


Tallies = dict[tuple[str, str], Tally]
"""By kind of object and rung."""


def campaign(bases: Sequence[Base], seed: int, *, flips: int = 3) -> Tallies:
    draws = random.Random(seed)  # noqa: S311 - it must be drawn again from its seed
    tallies: Tallies = {(kind, rung): Tally() for kind in KINDS for rung in RUNGS}
    for base in bases:
        for case in cases(base, draws, flips=flips):
            tallies[case.kind, base.rung].count(play(case))
    return tallies


def table(tallies: Tallies, seed: int) -> str:
    """One line for each kind of object and rung of the newest good version, and the sum."""
    lines = [
        "| damaged | newest good version is | cases | named | bad version resumed | right version chosen |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {_WORDS[kind]} | {rung} | {_cells([tally])} |"
        for (kind, rung), tally in tallies.items()
    ]
    lines.append(f"| together | | {_cells(list(tallies.values()))} |")
    return "\n".join([*lines, "", f"Places of single flipped bytes were drawn from seed {seed}."])


def _cells(tallies: Sequence[Tally]) -> str:
    played, visible = sum(t.played for t in tallies), sum(t.visible for t in tallies)
    named, right = sum(t.named for t in tallies), sum(t.right for t in tallies)
    resumed_bad = sum(t.resumed_bad for t in tallies)
    return f"{played} | {named} of {visible} | {resumed_bad} | {right} of {played}"


def write_into(text: str, written: str) -> str:
    """`text` with what stands between the markers replaced. Raises `ValueError` if they are not there."""
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"the page lacks the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{written}\n\n{END}{after}"


def main() -> int:
    """Play it all, print the table; the exit status."""
    parser = argparse.ArgumentParser(prog="corruption_campaign")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--report", type=Path, help="the page whose table is written when all went well"
    )
    options = parser.parse_args()
    began = time.monotonic()
    tallies = campaign(make_bases(), options.seed)
    text = table(tallies, options.seed)
    bad = [line for tally in tallies.values() for line in tally.bad]
    sys.stdout.write(f"{text}\n{time.monotonic() - began:.0f} s\n")
    sys.stdout.writelines(f"BAD: {line}\n" for line in bad)
    if options.report is not None and not bad:
        options.report.write_text(write_into(options.report.read_text(), text))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
