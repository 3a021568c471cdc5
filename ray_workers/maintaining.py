"""Retention and garbage collection of one run: what would be done, for everybody to see, and then doing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_workers.policies.retention import RetentionPlan, RetentionPolicy
from ray_workers.retiring import plan_retention, retire
from ray_workers.store.attempts import read_run
from ray_workers.store.log import RunLog
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.sweep import SweepReport, plan_sweep, sweep
from ray_workers.store.sweep_plan import SweepPlan

__all__ = ["MaintenancePlan", "maintain_run", "plan_maintenance"]

_PATIENCE_S = 120.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenancePlan:
    run: str
    retention: RetentionPlan | None
    """None: no retention was asked for, or the run is deleted."""
    sweep: SweepPlan
    at_once: bool = False
    """There is no grace: the same call deletes what it retires."""

    def to_json(self) -> dict[str, Any]:
        """Plain values under stable names."""
        plan = self.retention
        return {
            **self.sweep.to_json(),
            "retire": [] if plan is None else list(plan.retire),
            "bytes_retired": 0 if plan is None else plan.bytes_retired,
            "keep": {} if plan is None else {str(kept.number): kept.reason for kept in plan.keep},
        }

    def lines(self) -> tuple[str, ...]:
        """The plan for people, one fact a line."""
        found = [] if self.retention is None else _retention_lines(self.retention)
        if self.at_once and self.retention is not None and self.retention.retire:
            found.append("what is retired now is deleted at once: the grace is 0")
        plan = self.sweep
        if plan.blocked is not None:
            return (*found, f"nothing may be condemned or deleted: {plan.blocked}")
        found += [
            f"condemn version {number}: retired, and its grace is over" for number in plan.condemn
        ]
        found += [
            f"version {number} is retired; its grace runs for {_span(left)} more"
            for number, left in sorted(plan.waiting.items())
        ]
        found += [
            f"version {number} is retired and stays: {why}"
            for number, why in sorted(plan.protected.items())
        ]
        for what, size in sorted(plan.bytes_by_kind().items()):
            count = sum(1 for item in plan.doomed if item.what == what)
            found.append(f"delete {count} x {what}: {size / 1e6:.2f} MB")
        return tuple(found) or ("nothing to do",)


def plan_maintenance(
    store: ObjectStore, run: str, *, policy: RetentionPolicy, grace_s: float,
    tell: Tell = lambda _: None,
) -> MaintenancePlan:  # fmt: skip
    """What `maintain_run` would do now. Writes nothing.

    Raises:
        RunNotFoundError: there is no such run.
        StoreUnavailableError, StoreRefusedError: the store does not let us read.
    """
    state = read_run(store, run)
    wanted = state.exists and not policy.keeps_everything
    return MaintenancePlan(
        run=run,
        retention=plan_retention(store, state, policy) if wanted else None,
        sweep=plan_sweep(store, run, grace_s=grace_s, tell=tell),
        at_once=grace_s <= 0,
    )


def maintain_run(
    store: ObjectStore, plan: MaintenancePlan, *, grace_s: float, by: Mapping[str, Any],
    tell: Tell = lambda _: None,
) -> SweepReport:  # fmt: skip
    """Retire what the plan says, then sweep.

    What was retired just now is condemned when its grace is over, which without a grace is in this very call.

    Raises:
        RuleRefusedError: a version became protected since the plan was made, or a damaged slot is not yet repaired.
        StoreUnavailableError, StoreRefusedError: the store does not let us; what was done stays done.
    """
    if plan.retention is not None and plan.retention.retire:
        tell(f"retiring {len(plan.retention.retire)} versions of {plan.run}")
        log = RunLog(store, plan.run, by=by, patience_s=_PATIENCE_S, raw=True)
        retire(log, plan.retention, reason="retention")
    return sweep(store, plan.run, by=by, grace_s=grace_s, tell=tell)


def _retention_lines(plan: RetentionPlan) -> list[str]:
    kept = [f"keep version {v.number}: {v.reason}" for v in plan.keep]
    return [*kept, *(f"retire version {number}: no rule keeps it" for number in plan.retire)]


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
