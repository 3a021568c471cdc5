"""Breadth-first search over every reachable state of a model, so that a counterexample is as short as can be."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

__all__ = ["Exploration", "Model", "Violation", "explore"]

State = TypeVar("State", bound=Hashable)

STATE_LIMIT = 2_000_000


class Violation(NamedTuple):
    invariant: str
    detail: str


class Model(Protocol[State]):
    """States are hashable values; `steps` depends on nothing but the state."""

    def initial(self) -> State:
        """Where every trace begins."""

    def steps(self, state: State) -> Iterable[tuple[str, State]]:
        """Every step that some actor can take now, with a name for people, in a fixed order."""

    def violation(self, before: State, after: State) -> Violation | None:
        """The first invariant that the step from `before` to `after`, or `after` itself, breaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    violation: Violation | None
    """None: every reachable state was visited, and every invariant held."""
    trace: tuple[str, ...]
    """The steps from the initial state to the violation."""
    states: int


def explore(model: Model[State], *, limit: int = STATE_LIMIT) -> Exploration:
    """Visit every state once, or stop at the first violation.

    Raises `AssertionError` beyond `limit` states: a search that was cut short has shown nothing.
    """
    start = model.initial()
    reached_by: dict[State, tuple[State, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        before = queue.popleft()
        for name, after in model.steps(before):
            if after in reached_by:
                continue
            reached_by[after] = (before, name)
            violation = model.violation(before, after)
            if violation is not None:
                trace = _trace_to(after, reached_by)
                return Exploration(violation=violation, trace=trace, states=len(reached_by))
            queue.append(after)
        if len(reached_by) > limit:
            raise AssertionError(f"more than {limit} states: the model's bounds are too wide")
    return Exploration(violation=None, trace=(), states=len(reached_by))


def _trace_to(state: State, reached_by: dict[State, tuple[State, str] | None]) -> tuple[str, ...]:
    names: list[str] = []
    while (link := reached_by[state]) is not None:
        state, name = link
        names.append(name)
    return tuple(reversed(names))
