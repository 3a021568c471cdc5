"""Where each rank trains, and since when the first of them shows no sign of life. Told by node agents, kept by the driver.

An agent sees whether the processes beside it live; what it said is remembered, so that a rank has a place when its node,
agent included, is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

__all__ = ["BesideRanks", "RankPlaces"]


@dataclass(slots=True)
class BesideRanks:
    """A node agent's side: the ranks that train beside it."""

    _pids: dict[int, int] = field(default_factory=dict)
    _left: set[int] = field(default_factory=set)

    def arrive(self, rank: int, pid: int) -> None:
        self._pids[rank] = pid
        self._left.discard(rank)

    def leave(self, rank: int) -> None:
        """Its loop is over, one way or another."""
        self._left.add(rank)

    def signs(self) -> dict[int, bool]:
        """Whether each rank's loop still runs."""
        return {
            rank: rank not in self._left and _lives(pid) for rank, pid in sorted(self._pids.items())
        }


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")


@dataclass(slots=True)
class RankPlaces:
    """The driver's side. Never waits for an agent."""

    clock: Callable[[], float] = time.monotonic
    _nodes: dict[str, str] = field(default_factory=dict)
    _ranks: dict[int, str] = field(default_factory=dict)
    _asked: dict[str, Any] = field(default_factory=dict)
    _heard: set[str] = field(default_factory=set)
    _first_gone: float | None = None

    def look(self, agents: Mapping[str, Any], names: Mapping[str, str]) -> None:
        """Take the answers that are there, and ask again.

        Args:
            agents: by node id.
            names: host name of every living node, by node id.
        """
        self._nodes.update(names)
        if any(node not in names for node in self._ranks.values()):
            self._gone()
        for node, call in list(self._asked.items()):
            if ray.wait([call], timeout=0)[0]:
                del self._asked[node]
                signs = _answer(call)
                if signs is not None:
                    self.told(node, signs)
        for node, agent in agents.items():
            if node not in self._asked:
                self._asked[node] = agent.signs.remote()

    def told(self, node: str, signs: Mapping[int, bool]) -> None:
        """What one agent said. A rank that it does not name (it was started again) stays where it was."""
        self._heard.add(node)
        self._ranks.update(dict.fromkeys(signs, node))
        if not all(signs.values()):
            self._gone()

    @property
    def arrived(self) -> int:
        """Ranks that were seen so far."""
        return len(self._ranks)

    def _gone(self) -> None:
        if self._first_gone is None:
            self._first_gone = self.clock()

    def node_of(self, rank: int) -> str | None:
        """The host name of the node on which it trains, or trained; None: nobody told."""
        node = self._ranks.get(rank)
        return None if node is None else self._nodes.get(node, node)

    def place(self, node: str) -> str | None:
        """The node's name and the ranks on it, for people; None: no rank trains there.

        An agent that never answered may have ranks beside it: better saved once too often when its node goes.
        """
        ranks = sorted(rank for rank, at in self._ranks.items() if at == node)
        if not ranks and node in self._heard:
            return None
        name = f"node {self._nodes.get(node, node)}"
        return f"{name}, {_ranks_text(ranks)}" if ranks else name

    def gone_for_s(self) -> float | None:
        """Seconds since a rank was first seen gone; None: all seem to live."""
        return None if self._first_gone is None else max(0.0, self.clock() - self._first_gone)


def _ranks_text(ranks: Sequence[int]) -> str:
    """As in `ranks 0, 1 and 4`."""
    *others, last = map(str, ranks)
    return f"ranks {', '.join(others)} and {last}" if others else f"rank {last}"


def _answer(call: Any) -> dict[int, bool] | None:
    try:
        signs: dict[int, bool] = ray.get(call)
    except RayError:
        return None
    return signs
