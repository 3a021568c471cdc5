"""The runs below a root, one line each, from their logs alone. Reads only; a run that cannot be read is still listed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ray_workers.store.attempts import RAY_JOB, process_is_gone, read_run, run_names
from ray_workers.store.errors import DamageError, InvalidInputError, RunNotFoundError
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_state import RunState, VersionState

__all__ = ["RunEntry", "list_runs", "run_status"]

_READERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEntry:
    """One run. `state` is None exactly when `problem` says why its log cannot be read."""

    run: str
    state: RunState | None
    problem: str | None

    @property
    def newest(self) -> VersionState | None:
        """The newest version that is neither given up nor abandoned by a rollback."""
        versions = [] if self.state is None else self.state.newest_first()
        return next((v for v in versions if v.readable and not v.abandoned), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values under stable names."""
        state, newest = self.state, self.newest
        if state is None:
            return {"run": self.run, "status": "unreadable", "problem": self.problem}
        readable = [v for v in state.versions.values() if v.readable]
        origin = state.origin
        return {
            "run": self.run,
            "status": run_status(state),
            "problem": None,
            "run_id": state.run_id,
            "versions": len(readable),
            "newest": None if newest is None else newest.number,
            "step": None if newest is None else newest.step,
            "rung": None if newest is None else newest.rung,
            "bytes": sum(v.bytes for v in readable),
            "attempts": len(state.attempts),
            "created_at": state.created_at,
            "updated_at": _updated_at(state),
            "forked_from": None if origin is None else f"{origin.run}@{origin.version.number}",
            "damaged_slots": list(state.damaged),
        }


def list_runs(store: ObjectStore) -> tuple[RunEntry, ...]:
    """Every run below the root, sorted by name; logs are read in parallel.

    Raises:
        StoreUnavailableError, StoreRefusedError: the store does not let us read.
    """

    def entry(run: str) -> RunEntry:
        try:
            return RunEntry(run=run, state=read_run(store, run), problem=None)
        except RunNotFoundError:
            return RunEntry(run=run, state=None, problem="it has no log")
        except (DamageError, InvalidInputError) as error:
            return RunEntry(run=run, state=None, problem=error.message)

    with ThreadPoolExecutor(_READERS) as pool:
        return tuple(pool.map(entry, run_names(store)))


def run_status(state: RunState) -> str:
    """`new`, `running`, `died`, `lost`, `deleted`, or how the last attempt ended.

    Died: its process was on this host and is gone, unless it trains as a Ray job, which would go on. Lost: its fence is
    closed and no end was recorded.
    """
    if state.deleted:
        return "deleted"
    last = max(state.attempts.values(), key=lambda attempt: attempt.fence, default=None)
    if last is None:
        return "new"
    if last.outcome is not None:
        return last.outcome
    if state.open_fence != last.fence:
        return "lost"
    return "died" if process_is_gone(last.by) and not last.by.get(RAY_JOB) else "running"


def _updated_at(state: RunState) -> str | None:
    times = [state.created_at, *(version.at for version in state.versions.values())]
    for attempt in state.attempts.values():
        times += [attempt.at, attempt.resume_at, attempt.ended_at]
    return max((time for time in times if time is not None), default=None)
