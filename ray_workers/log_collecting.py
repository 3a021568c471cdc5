"""Log lines of all ranks, gathered from the node agents for the flow's page: at most so many a second for the run."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError

from ray_workers.messages import LogLine, PawlEvent
from ray_workers.policies.line_budget import LineBudget
from ray_workers.store.clock import utc_now

__all__ = ["LineBox", "LogCollector"]

_BOX_LINES = 5000
_PER_SECOND = 60.0
_BURST = 300
_LAST_S = 5.0


class LineBox:
    """A node agent's side: lines wait here until the driver asks for them; the oldest go when there are too many."""

    def __init__(self) -> None:
        self._lines: deque[LogLine] = deque(maxlen=_BOX_LINES)

    def put(self, lines: list[LogLine]) -> None:
        self._lines.extend(lines)

    def take(self) -> list[LogLine]:
        taken = []
        while self._lines:
            taken.append(self._lines.popleft())
        return taken


class LogCollector:
    """The driver's side. Never waits for an agent: one that is dead or busy is asked again later."""

    def __init__(self, on_event: Callable[[PawlEvent], None]) -> None:
        self._on_event = on_event
        self._budget = LineBudget(_PER_SECOND, _BURST)
        self._asked: dict[str, Any] = {}

    def collect(self, agents: Mapping[str, Any]) -> None:
        """Tell what has arrived since the last call, and ask again."""
        for node, call in list(self._asked.items()):
            if ray.wait([call], timeout=0)[0]:
                del self._asked[node]
                self.tell(_answer(call))
        for node, agent in agents.items():
            if node not in self._asked:
                self._asked[node] = agent.take_lines.remote()

    def finish(self, agents: Mapping[str, Any], patience_s: float = _LAST_S) -> None:
        """The last lines, after the workers ended; no agent is waited for longer than so many seconds."""
        self.collect({})
        calls = [*self._asked.values(), *(agent.take_lines.remote() for agent in agents.values())]
        ready, _ = (
            ray.wait(calls, num_returns=len(calls), timeout=min(_LAST_S, patience_s))
            if calls
            else ([], [])
        )
        for call in ready:
            self.tell(_answer(call))

    def tell(self, lines: list[LogLine]) -> None:
        for line in sorted(lines, key=lambda one: one.at):
            if line.level >= logging.ERROR or self._budget.take(time.monotonic()):
                self._on_event(_event(line))
        if left_out := self._budget.left_out():
            text = f"{left_out} lines of all ranks left out: more than {_PER_SECOND:g} a second"
            details = {"level": logging.WARNING}
            self._on_event(PawlEvent(kind="log", message=text, at=utc_now(), details=details))


def _event(line: LogLine) -> PawlEvent:
    return PawlEvent(
        kind="log",
        message=f"[rank {line.rank}] {line.text}",
        at=line.at,
        details={"rank": line.rank, "level": line.level},
    )


def _answer(call: Any) -> list[LogLine]:
    try:
        lines: list[LogLine] = ray.get(call)
    except RayError:
        return []
    return lines
