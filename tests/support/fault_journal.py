"""What a fault campaign has played so far, in a file, so that one that is stopped goes on where it was.

The first line names the commit and the options; every other line is one part and what it came to. A part that was cut
off is not in it and is played again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.support.fault_report import ControlResult
from tests.support.simulation.enumeration import Counts

__all__ = ["Journal", "Outcome"]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What one part came to; small, because it crosses processes."""

    part: str
    counts: Counts = field(default_factory=Counts)
    histories: int = 0
    calls: int = 0
    broken: list[str] = field(default_factory=list)
    controls: dict[int, ControlResult] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        cases = [[step, injury, n] for (step, injury), n in self.counts.cases.items()]
        return {
            "part": self.part,
            "cases": cases,
            "crash_points": self.counts.crash_points,
            "endings": self.counts.endings,
            "histories": self.histories,
            "calls": self.calls,
            "broken": self.broken,
            "controls": {str(number): asdict(result) for number, result in self.controls.items()},
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Outcome:
        cases = {(step, injury): n for step, injury, n in raw["cases"]}
        return cls(
            part=raw["part"],
            counts=Counts(cases=cases, crash_points=raw["crash_points"], endings=raw["endings"]),
            histories=raw["histories"],
            calls=raw["calls"],
            broken=list(raw["broken"]),
            controls={int(n): ControlResult(**result) for n, result in raw["controls"].items()},
            seconds=raw["seconds"],
        )


class Journal:
    """The parts that were played, by name.

    Args:
        page: the file; None keeps nothing.
        about: what must be the same for the parts to count.

    Raises:
        ValueError: the file tells of another commit, or of other options.
    """

    def __init__(self, page: Path | None, about: Mapping[str, Any]) -> None:
        self._page = page
        self._known: dict[str, Outcome] = {}
        if page is None:
            return
        if not page.exists():
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(json.dumps(about) + "\n")
            return
        lines = page.read_text().splitlines()
        if json.loads(lines[0]) != about:
            raise ValueError(
                f"{page} tells of another campaign, {lines[0]}, not of {json.dumps(about)}: remove it to begin anew."
            )
        for outcome in map(_read, lines[1:]):
            if outcome is not None:
                self._known[outcome.part] = outcome

    def find(self, part: str) -> Outcome | None:
        return self._known.get(part)

    def add(self, outcome: Outcome) -> None:
        self._known[outcome.part] = outcome
        if self._page is not None:
            with self._page.open("a") as page:
                page.write(json.dumps(outcome.to_json()) + "\n")


def _read(line: str) -> Outcome | None:
    try:
        return Outcome.from_json(json.loads(line))
    except (ValueError, KeyError):
        return None  # the line that was being written when the campaign was stopped
