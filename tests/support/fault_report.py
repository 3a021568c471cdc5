"""What a fault campaign counted, as lines for a terminal and as the tables of docs/reliability.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.simulation.enumeration import FAULTS, Counts
from tests.support.simulation.oracle import Invariant

__all__ = ["Campaign", "ControlResult", "write_report"]

_WHERE = {
    "dies before": "any call",
    "dies after": "any call",
    "loses the response": "any call",
    "answers twice": "put, create, delete",
    "delays, lands while it waits": "put, create, delete",
    "delays past its own retry": "put, create, delete",
    "cut off, lands after the next step began": "any call, and all after it",
    "cut off, lands at the end": "any call, and all after it",
    "tears an upload": "put",
    "flips a bit in transfer": "get",
    "flips a bit at rest": "put, create",
    "returns a stale listing": "list",
    "throttles (503)": "any call",
    "returns 409": "put, create, delete",
    "returns 412 on a free key": "create",
}
_HOLDS = {
    "flips a bit at rest": "all of it, but that the damaged object's own version or record may be lost",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlResult:
    guard: str
    rule: str
    histories: int | None
    """How many were played until one broke; None: none did."""
    broken: str
    """The invariant."""


@dataclass(slots=True, kw_only=True)
class Campaign:
    command: str
    longest: int
    protocols: int
    faults: int
    commit: str = ""
    seconds: float = 0.0
    """Of one processor."""
    parts: int = 0
    played: int = 0
    """Of the parts; fewer when the campaign was given too little time."""
    wanted: dict[str, int] = field(default_factory=dict)
    """Histories that the whole campaign has, by backend."""
    cases: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)
    crash_points: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    histories: dict[str, int] = field(default_factory=dict)
    calls: int = 0
    broken: list[str] = field(default_factory=list)
    shown: int = 0
    """How many of them a person has seen."""
    controls: dict[int, ControlResult] = field(default_factory=dict)

    def add_cases(self, backend: str, counts: Counts) -> None:
        self.cases.setdefault(backend, Counter()).update(counts.cases)
        self.crash_points[backend] += counts.crash_points
        self.endings[backend] += counts.endings

    @property
    def failed(self) -> bool:
        """Something broke, or a guard was removed and nobody noticed."""
        return bool(self.broken) or any(c.histories is None for c in self.controls.values())

    @property
    def good(self) -> bool:
        """All of it was played, and nothing broke."""
        return not self.failed and self.played == self.parts

    def lines(self) -> Iterable[str]:
        """The counts, for a person at a terminal."""
        yield f"protocols               {self.protocols}, in sequences of up to {self.longest}"
        yield f"ways to go wrong        {self.faults}"
        for backend in self.cases:
            yield f"crash points on {backend:8}{self.crash_points[backend]:,}"
            cases, endings = self.cases[backend].total(), self.endings[backend]
            alike = "" if cases == endings else f": what came next was played {endings:,} times"
            yield f"cases on {backend:15}{cases:,}{alike}"
        for backend, count in self.histories.items():
            wanted = self.wanted.get(backend, count)
            rest = "" if wanted == count else f" of {wanted:,}: the rest was not played"
            yield f"histories on {backend:11}{count:,}{rest}"
        yield f"storage calls in them   {self.calls:,}"
        yield f"invariants              {len(Invariant)}"
        yield f"invariant violations    {len(self.broken)}"
        red = sum(c.histories is not None for c in self.controls.values())
        yield f"guards removed          {len(self.controls)}, of which {red} turned the sweep red"
        yield from (f"  NOT RED: {c.guard}" for c in self.controls.values() if c.histories is None)
        if self.played != self.parts:
            yield f"NOT ALL WAS PLAYED      {self.played} of {self.parts} parts"
        yield f"processor seconds       {self.seconds:,.0f}"
        if self.commit:
            yield f"played at commit        {self.commit}"


def write_report(page: Path, campaign: Campaign) -> None:
    """Put the tables of this campaign between their markers; the rest of the page stays.

    Raises `ValueError` if the page has no such markers.
    """
    text = page.read_text()
    for name, lines in (
        ("counts", ["```", *campaign.lines(), "```"]),
        ("matrix", _matrix(campaign)),
        ("guards", _guards(campaign)),
        ("invariants", [f"{n}. {i.value}." for n, i in enumerate(Invariant, start=1)]),
    ):
        text = _between(text, name, lines)
    page.write_text(text)


def _between(text: str, name: str, lines: Iterable[str]) -> str:
    start, end = f"<!-- test-faults: {name} -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no markers {start} and {end}")
    body = "\n".join(lines)
    return f"{before}{start}\n{body}\n{end}{after}"


def _matrix(campaign: Campaign) -> Iterable[str]:
    yield "| fault | where it is injected | what must hold | cases in memory | cases on Ceph | result |"
    yield "|---|---|---|---|---|---|"
    for injury in FAULTS:
        memory, ceph = (
            sum(n for (_, i), n in campaign.cases.get(b, Counter()).items() if i == injury.name)
            for b in ("memory", "s3")
        )
        holds = _HOLDS.get(injury.name, "all of it")
        broken = sum(f"] {injury.name}: " in line for line in campaign.broken)
        result = f"{broken} broken" if broken else "nothing broke"
        yield f"| {injury.name} | {_WHERE[injury.name]} | {holds} | {memory:,} | {ceph:,} | {result} |"


def _guards(campaign: Campaign) -> Iterable[str]:
    yield "| guard | rule of FORMAT.md | without it, this broke | after so many histories or cases |"
    yield "|---|---|---|---|"
    for _, control in sorted(campaign.controls.items()):
        yield f"| {control.guard} | {control.rule} | {control.broken} | {control.histories or 'never'} |"
