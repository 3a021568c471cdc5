"""When attempts ran, by the times in a run's log, and a version of each that counts."""

from __future__ import annotations

import math
from collections.abc import Collection
from datetime import datetime

from ray_workers.store.run_state import AttemptState, RunState

__all__ = ["instant", "one_of_each", "span_of"]


def span_of(state: RunState, attempt: AttemptState, now_s: float) -> tuple[float, float]:
    """From the attempt's start to its end, or to its last sign of life."""
    begin = instant(attempt.at, now_s)
    if attempt.ended_at is not None:
        return begin, max(begin, instant(attempt.ended_at, now_s))
    if state.open_fence == attempt.fence:
        return begin, max(begin, now_s)
    commits = [instant(v.at, begin) for v in state.versions.values() if v.fence == attempt.fence]
    return begin, max([begin, *commits])


def one_of_each(
    state: RunState, *, now_s: float, within_s: float, besides: Collection[int]
) -> tuple[int, ...]:
    """Of each attempt that ended within the last `within_s` seconds: its newest version that can be read, if any.

    Args:
        state: what the run's log says.
        now_s: the time, in seconds since the epoch.
        within_s: how long ago an attempt may have ended.
        besides: fences of attempts that nobody asks about.
    """
    readable = sorted(v.number for v in state.versions.values() if v.readable)
    newest = {state.versions[number].fence: number for number in readable}
    ends = {a.fence: span_of(state, a, now_s)[1] for a in state.attempts.values()}
    return tuple(
        number
        for fence, number in newest.items()
        if fence not in besides and now_s - ends.get(fence, -math.inf) <= within_s
    )


def instant(text: str, otherwise: float) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return otherwise
