"""What the kill campaign kills and when, drawn from a seed; and the table that it writes. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "BEGIN",
    "END",
    "LOOPS",
    "TARGETS",
    "Kill",
    "Row",
    "add",
    "draw",
    "missing",
    "read",
    "table",
    "write_into",
]

BEGIN = "<!-- kills: written by make kills -->"
END = "<!-- kills: end -->"

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": (
        "ray_workers.loops.digits:train_loop",
        {"epochs": 14, "batch_size": 64, "step_delay": 0.2},
    ),
    "gpt": (
        "ray_workers.loops.gpt:train_loop",
        {"epochs": 14, "steps_per_epoch": 14, "batch_size": 4, "step_delay": 0.2},
    ),
}
"""Two workers, 196 steps, a version every 5 steps: long enough for five kills on a slow machine."""

TARGETS = {
    "worker": "one of the training workers",
    "actor": "the checkpoint actor",
    "agent": "the node agent",
    "flow": "the flow's process alone",
    "raylet": "Ray's own daemon of the node",
}
_LONGEST_DELAY_S = 1.5
"""About the time between two versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    loop: str
    target: str
    after: int
    """So many versions must be committed since the kill before, or since the start."""
    delay_s: float
    """And then so many seconds must have passed."""
    which: float
    """Which of several processes of the kind, as a fraction of their number."""


def draw(
    count: int, seed: int, *, loops: Sequence[str], targets: Sequence[str]
) -> list[list[Kill]]:
    """Runs, each a list of kills in the order of time: every run meets each target once, loops take turns.

    The raylet comes last: it takes Ray a while to notice that it is gone, and training may go on meanwhile, perhaps to
    its end.
    """
    draws = random.Random(seed)  # noqa: S311 - it must be drawn again from its seed
    runs: list[list[Kill]] = []
    left = count
    while left > 0:
        loop = loops[len(runs) % len(loops)]
        order = sorted(draws.sample(list(targets), len(targets)), key=lambda t: t == "raylet")
        runs.append([_drawn(draws, loop, target) for target in order[:left]])
        left -= len(runs[-1])
    return runs


def _drawn(draws: random.Random, loop: str, target: str) -> Kill:
    return Kill(
        loop=loop,
        target=target,
        after=draws.randint(1, 2),
        delay_s=round(draws.uniform(0, _LONGEST_DELAY_S), 3),
        which=round(draws.random(), 3),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kill, as it happened."""

    commit: str
    """Which code was played."""
    seed: int
    run: int
    """Number of the run among those drawn from the seed, from 0."""
    loop: str
    target: str
    step: int
    """Of the newest version at that moment."""
    seconds: float
    """From the kill to the next version of whoever goes on: but for the agent under another fence; to the end of the run
    if it came to that without one."""
    started_again: bool
    """The command had to be given again; else the process came back by itself."""
    identical: bool
    """The run that it belongs to ended with the bits of an uninterrupted one."""


def add(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as out:
        out.writelines(json.dumps(asdict(row)) + "\n" for row in rows)


def read(path: Path) -> list[Row]:
    """All kills; of a run that was played again, those of its last play. A run stands in the file as a whole."""
    if not path.exists():
        return []
    newest: dict[tuple[int, int, str], Row] = {}
    for line in path.read_text().splitlines():
        row = Row(**json.loads(line))
        newest[row.seed, row.run, row.target] = row
    return list(newest.values())


def missing(runs: Sequence[Sequence[Kill]], seed: int, rows: Sequence[Row]) -> list[int]:
    """Numbers of the runs of the seed of which a kill was not played, or that did not end with the same bits."""
    good = {(row.run, row.target) for row in rows if row.seed == seed and row.identical}
    return [n for n, kills in enumerate(runs) if any((n, k.target) not in good for k in kills)]


def table(rows: Sequence[Row]) -> str:
    """One line for each loop and target, and the sum."""
    lines = [
        "| loop | killed with SIGKILL | kills | command given again | seconds to the next version, median (most) | bit-identical |",
        "|---|---|---|---|---|---|",
    ]
    for loop in LOOPS:
        for target, words in TARGETS.items():
            mine = [row for row in rows if (row.loop, row.target) == (loop, target)]
            if mine:
                lines.append(f"| {loop} | {words} | {_cells(mine)} |")
    lines.append(f"| together | | {_cells(rows)} |")
    seeds = ", ".join(str(seed) for seed in sorted({row.seed for row in rows}))
    commits = ", ".join(sorted({row.commit for row in rows}))
    return "\n".join([*lines, "", f"Seeds: {seeds}. Played at commit {commits}."])


def _cells(rows: Sequence[Row]) -> str:
    seconds = sorted(row.seconds for row in rows)
    again = sum(row.started_again for row in rows)
    same = sum(row.identical for row in rows)
    return (
        f"{len(rows)} | {again} | {seconds[len(seconds) // 2]:.0f} ({seconds[-1]:.0f}) | "
        f"{same} of {len(rows)}"
    )


def write_into(text: str, rows: Sequence[Row]) -> str:
    """`text` with what stands between the markers replaced. Raises `ValueError` if they are not there."""
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"the page lacks the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{after}"
