"""Looking at a root and saying how its runs could come back: reads logs, manifests and the listing, writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ray_workers.drill_times import drill_seconds
from ray_workers.health import assess_run
from ray_workers.health_values import Objective, RunFacts, RunHealth
from ray_workers.interval_account import account_of
from ray_workers.interval_facts import (
    history_of,
    older_entries,
    restarts_of,
    until_committed,
)
from ray_workers.policies.retention import RetentionPolicy
from ray_workers.readiness import newest_at, required_rung
from ray_workers.retiring import plan_retention
from ray_workers.storage_accounts import (
    LetGoFacts,
    Storage,
    StoredVersionFacts,
    assess_storage,
    let_go_of,
)
from ray_workers.store.catalog import VersionCatalog, VersionEntry
from ray_workers.store.clock import utc_now
from ray_workers.store.keys import data_fence, run_prefix
from ray_workers.store.manifest import DROPPED_REASON, DROPPED_SAVES
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_listing import RunEntry, list_runs, run_status
from ray_workers.store.run_state import RunState

__all__ = ["BUDGET_SPENT", "HealthReport", "look_at_root"]

_NEWEST = 20
"""Versions whose manifests tell world size, save times, restarts and dropped saves."""
_ORDER = ("ready", "warning", "critical")
BUDGET_SPENT = "the storage budget is spent"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """The state of a whole root at one moment."""

    url: str
    at: str
    objective: Objective
    runs: tuple[RunHealth, ...]
    unreadable: tuple[tuple[str, str], ...]
    """Runs whose log cannot be read, and why."""
    storage: Storage | None
    """None: not asked for."""

    @property
    def verdict(self) -> str:
        """The worst of all runs; an unreadable run is critical, a budget that is spent a warning."""
        found = [run.verdict for run in self.runs]
        found += ["critical"] if self.unreadable else []
        found += ["warning"] if self.over_budget else []
        return max(found, key=_ORDER.index, default="ready")

    @property
    def reason(self) -> str:
        worst = [run for run in self.runs if run.verdict == self.verdict]
        if self.verdict == "ready":
            return self.summary
        if self.unreadable:
            run, why = self.unreadable[0]
            return f"{run}: {why}"
        if not worst:
            return BUDGET_SPENT
        more = f" (and {len(worst) - 1} more)" if len(worst) > 1 else ""
        return f"{worst[0].run}: {worst[0].reason}{more}"

    @property
    def summary(self) -> str:
        """How many runs could come back, and how many of them as promised."""
        total = len(self.runs) + len(self.unreadable)
        lost = sum(run.verdict == "critical" for run in self.runs) + len(self.unreadable)
        late = sum(run.verdict == "warning" for run in self.runs)
        told = [f"{lost} of {total} runs could not come back"] if lost else []
        told += [f"{late} of {total} runs would come back, but not as promised"] if late else []
        told += [BUDGET_SPENT] if self.over_budget else []
        if told:
            return ", ".join(told)
        if not total:
            return "there is no run yet"
        return "the one run can come back" if total == 1 else f"all {total} runs can come back"

    @property
    def missed(self) -> tuple[RunHealth, ...]:
        """The runs that do not meet the objective."""
        return tuple(run for run in self.runs if run.verdict != "ready")

    @property
    def over_budget(self) -> bool:
        """More is stored than the objective allows."""
        storage = self.storage
        return (
            storage is not None and storage.budget is not None and storage.stored > storage.budget
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "url": self.url,
            "at": self.at,
            "verdict": self.verdict,
            "reason": self.reason,
            "summary": self.summary,
            "objective": {
                "at_risk_s": self.objective.at_risk_s,
                "recovery_s": self.objective.recovery_s,
                "budget_bytes": self.objective.budget_bytes,
            },
            "runs": [run.to_json() for run in self.runs],
            "unreadable": [{"run": run, "problem": why} for run, why in self.unreadable],
            "storage": None if self.storage is None else self.storage.to_json(),
        }


def look_at_root(
    store: ObjectStore,
    objective: Objective,
    *,
    retention: RetentionPolicy | None = None,
    storage: bool = True,
    now: datetime | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> HealthReport:
    """Assess every run below the root.

    Args:
        store: the root.
        objective: what is promised.
        retention: the policy whose effect is told.
        storage: also make the accounts, for which every manifest and the listing of all objects is read.
        now: the moment, by default this one.
        tell: told which run is being read.

    Raises:
        StoreUnavailableError, StoreRefusedError: the store does not let us read.
    """
    at = utc_now() if now is None else now.isoformat()
    moment = now or datetime.fromisoformat(at).astimezone(UTC)
    looked = _Look(store, objective, moment, retention, storage=storage)
    unreadable = []
    for entry in list_runs(store):
        tell(f"looking at {entry.run}")
        if entry.state is None:
            unreadable.append((entry.run, entry.problem or "its log cannot be read"))
        elif not entry.state.deleted:
            looked.at_run(entry)
        else:
            looked.at_deleted(entry.state)
    return HealthReport(
        url=store.url,
        at=at,
        objective=objective,
        runs=tuple(looked.runs),
        unreadable=tuple(unreadable),
        storage=looked.accounts() if storage else None,
    )


class _Look:
    def __init__(
        self, store: ObjectStore, objective: Objective, now: datetime,
        retention: RetentionPolicy | None, *, storage: bool,
    ) -> None:  # fmt: skip
        self._store = store
        self._objective = objective
        self._now = now
        self._retention = retention
        self._storage = storage
        self._versions: list[StoredVersionFacts] = []
        self._let_go: list[LetGoFacts] = []
        self._orphans = 0
        self._freed = 0
        self.runs: list[RunHealth] = []

    def at_run(self, entry: RunEntry) -> None:
        state = entry.state
        if state is None:
            return
        kept = sorted(n for n, v in state.versions.items() if v.readable)
        resumed = newest_at(state, required_rung(state))
        few = {*kept[-_NEWEST:], *([] if resumed is None else [resumed.number])}
        catalog = VersionCatalog(self._store, entry.run)
        entries = catalog.entries(state, kept if self._storage else few)
        newest, now_s = entries[-_NEWEST:], self._now.timestamp()
        older = older_entries(catalog, state, newest, now_s)
        account = account_of(history_of(state, newest, now_s, older=older))
        facts = RunFacts(
            status=run_status(state),
            world_size=_world_size(entries),
            drills_s=drill_seconds(self._store, state),
            restarts_s=restarts_of(state, newest),
            until_committed_s=until_committed(entries),
            optimal_s=None if account.decision is None else account.decision.seconds,
            dropped=tuple(_dropped(newest)),
        )
        self.runs.append(assess_run(state, facts, self._objective, self._now))
        if self._storage:
            self._account(state, entries)

    def at_deleted(self, state: RunState) -> None:
        """What a sweep has not taken yet belongs to no version any more."""
        if self._storage:
            self._orphans += self._unreferenced(state, set())

    def accounts(self) -> Storage:
        return assess_storage(
            self._versions,
            self._now,
            let_go=self._let_go,
            budget=self._objective.budget_bytes,
            orphans=self._orphans,
            retention_would_free=None if self._retention is None else self._freed,
        )

    def _account(self, state: RunState, entries: Sequence[VersionEntry]) -> None:
        seen: set[str] = set()
        whole = new = 0
        for entry in entries:
            shards = () if entry.facts is None else entry.facts.shards
            shared = sum(shard.bytes for shard in shards if shard.key in seen)
            seen.update(shard.key for shard in shards)
            version = entry.version
            whole, new = whole + version.bytes, new + version.bytes - shared
            self._versions.append(
                StoredVersionFacts(
                    run=state.run,
                    rung=version.rung,
                    bytes=version.bytes,
                    bytes_new=version.bytes - shared,
                    at=version.at,
                    stays=version.status == "live",
                )
            )
        self._let_go += let_go_of(state, share=new / whole if whole else 1.0)
        if all(entry.facts is not None for entry in entries):
            self._orphans += self._unreferenced(state, seen)
        if self._retention is not None:
            self._freed += plan_retention(self._store, state, self._retention).bytes_retired

    def _unreferenced(self, state: RunState, referenced: set[str]) -> int:
        """Bytes of shards that no kept version needs and that no running attempt may still commit."""
        prefix = f"{run_prefix(state.run)}shards/"
        return sum(
            info.size
            for info in self._store.list(prefix)
            if info.key not in referenced
            and (key := data_fence(info.key)) is not None
            and key.fence != state.open_fence
        )


def _world_size(entries: Sequence[VersionEntry]) -> int:
    return next((e.facts.world_size for e in reversed(entries) if e.facts is not None), 1)


def _dropped(entries: Sequence[VersionEntry]) -> Iterator[tuple[int, str]]:
    for entry in entries:
        told: Mapping[str, str] = {} if entry.facts is None else entry.facts.environment
        if told.get(DROPPED_SAVES, "").isdecimal():
            yield int(told[DROPPED_SAVES]), told.get(DROPPED_REASON, "no reason told")
