"""The versions that a run's present state comes from: the newest and its ancestors, whatever other attempts committed.

In the order of steps their metrics are the run's series over all attempts: no step twice, none left out. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray_workers.store.run_state import RunState

__all__ = ["present_line"]


def present_line(
    state: RunState, parents: Mapping[int, int | None], *, head: int | None = None
) -> list[int]:
    """Version numbers, newest first.

    Args:
        state: the run.
        parents: what manifests say, by number of the version: its parent in this run, or None. A version whose manifest
            cannot be used is left out; its parent is told from the log, so damage cuts nothing.
        head: the version whose line is wanted, if it is not the present one: it may lie on a branch that was left.
    """
    found: list[int] = []
    number = _head(state) if head is None else head
    while number is not None and number in state.versions:
        found.append(number)
        parent = parents[number] if number in parents else _logged_parent(state, number)
        # Numbers only fall on the way back, whatever a damaged log says: no circle.
        number = parent if parent is not None and parent < number else None
    return found


def _head(state: RunState) -> int | None:
    """Where the newest attempt stands: its last commit, else where it resumed; else the newest version."""
    for fence in sorted(state.attempts, reverse=True):
        attempt = state.attempts[fence]
        if attempt.last_commit in state.versions:
            return attempt.last_commit
        if attempt.resume_at is not None:
            own = attempt.resume_origin is None
            return attempt.resume.number if attempt.resume is not None and own else None
    return max(state.versions, default=None)


def _logged_parent(state: RunState, number: int) -> int | None:
    fence = state.versions[number].fence
    same = [v.number for v in state.versions.values() if v.fence == fence and v.number < number]
    if same:
        return max(same)
    attempt = state.attempts.get(fence)
    begun = None if attempt is None else state.begun(attempt)
    if begun is None or begun.resume is None or begun.resume_origin is not None:
        return None
    return begun.resume.number
