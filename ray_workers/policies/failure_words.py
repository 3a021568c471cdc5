"""How an attempt's failure is put into the one text that its end record has room for, and how it is read again. Pure.

    Training of run 'r' failed on rank 1 (node trainer-2, noticed after 2.1 s, settled in 0.4 s): ValueError: shapes …

What is not known is left out, the brackets too. Any other error keeps its own words, and what is known stands behind them
in the same brackets: `… (rank 1, node trainer-2, error StateMismatchError)`. Older Pawls did not write the type there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Failure", "error_of", "placed", "read_failure"]

_PLACE = r"\((?P<place>[^()]*)\)"
_RAISED = re.compile(
    rf"failed on rank (?P<rank>\d+)(?: {_PLACE})?: (?P<error>\w+): ?(?P<said>.*)", re.DOTALL
)
_PLACED = re.compile(rf"^(?P<said>.*) {_PLACE}$", re.DOTALL)
_RANK = re.compile(r"^rank (\d+)$")
_ERROR = re.compile(r"^error (\w+)$")
_SECONDS = re.compile(r"^(noticed after|settled in) (\d+(?:\.\d+)?) s$")
_PREEMPTED = "preempted"
_ROOM = 2000
"""Characters that an end record keeps of its reason (`store.attempts.end_attempt`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A rank's failure. None: not known."""

    rank: int
    error: str = ""
    """Type of the exception; empty for an error that kept its words in the record of an older Pawl."""
    said: str = ""
    node: str | None = None
    noticed_s: float | None = None
    """From the first sign that a rank was gone until Ray gave up the attempt."""
    settled_s: float | None = None
    """From there until what was in flight had become versions and was judged, or was given up."""
    preempted: bool = False
    """Ray knows that the node was taken away."""

    def text(self, run: str) -> str:
        """As a message for a person, and for the log."""
        place = ", ".join(self._facts())
        between = f" ({place})" if place else ""
        return f"Training of run {run!r} failed on rank {self.rank}{between}: {self.error}: {self.said}"

    def _facts(self) -> list[str]:
        facts = [] if self.node is None else [f"node {_inside(self.node)}"]
        facts += [_PREEMPTED] if self.preempted else []
        facts += [] if self.noticed_s is None else [f"noticed after {self.noticed_s:.1f} s"]
        facts += [] if self.settled_s is None else [f"settled in {self.settled_s:.1f} s"]
        return facts


def placed(message: str, *, rank: int | None, node: str | None, error: str = "") -> str:
    """`message`, with the place where it was raised and its type behind it, as far as they are known and do not stand there.

    It fits into an end record: of a long message the end is left out, so that what stands behind it is kept.
    """
    if read_failure(message) is not None:
        return message
    facts = [] if rank is None else [f"rank {rank}"]
    facts += [] if rank is None or node is None else [f"node {_inside(node)}"]
    facts += [f"error {error}"] if error else []
    if not facts:
        return message
    behind = f" ({', '.join(facts)})"
    return message[: _ROOM - len(behind)] + behind


def error_of(text: str) -> str | None:
    """Type of the exception that `text` speaks of; None: it does not say."""
    known = read_failure(text)
    if known is not None:
        return known.error or None
    behind = _PLACED.match(text)
    return None if behind is None else _error_in(behind["place"]) or None


def read_failure(text: str) -> Failure | None:
    """What `Failure.text` or `placed` wrote; None: no rank is named."""
    if (found := _RAISED.search(text)) is not None:
        return _read(found["place"] or "", int(found["rank"]), found["error"], found["said"])
    behind = _PLACED.match(text)
    if behind is None:
        return None
    place = behind["place"]
    rank = _RANK.match(place.split(", ")[0])
    return None if rank is None else _read(place, int(rank[1]), _error_in(place), behind["said"])


def _error_in(place: str) -> str:
    last = _ERROR.match(place.rsplit(", ", maxsplit=1)[-1])
    return "" if last is None else last[1]


def _read(place: str, rank: int, error: str, said: str) -> Failure:
    node, seconds = None, {}
    for fact in place.split(", "):
        if fact.startswith("node "):
            node = fact.removeprefix("node ")
        elif (found := _SECONDS.match(fact)) is not None:
            seconds[found[1]] = float(found[2])
    return Failure(
        rank=rank,
        error=error,
        said=said,
        node=node,
        noticed_s=seconds.get("noticed after"),
        settled_s=seconds.get("settled in"),
        preempted=_PREEMPTED in place.split(", "),
    )


def _inside(name: str) -> str:
    """Without what would end the brackets or begin the next fact."""
    return re.sub(r"[(),\s]+", " ", name).strip() or "unknown"
