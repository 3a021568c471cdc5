"""From a retention policy to Retire records: facts gathered, the plan made, the plan carried out."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ray_workers.policies.retention import RetentionFacts, RetentionPlan, RetentionPolicy
from ray_workers.store.bodies import Retire
from ray_workers.store.clock import epoch_seconds
from ray_workers.store.errors import DamageError, MissingError, PawlError
from ray_workers.store.log import RunLog
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_state import RunState
from ray_workers.store.versions import load_manifest

__all__ = ["plan_retention", "retire"]

_BATCH = 200


def plan_retention(store: ObjectStore, state: RunState, policy: RetentionPolicy) -> RetentionPlan:
    """What the policy would keep and retire now. Reads manifests only if the policy asks for metrics."""
    live = [v for v in state.newest_first() if v.status == "live"]
    facts = [
        RetentionFacts(
            number=v.number,
            step=v.step,
            bytes=v.bytes,
            committed_s=_seconds(v.at),
            candidate=v.candidate,
            **_facts(store, state, v.number, wanted=policy.needs_manifests),
        )
        for v in live
    ]
    return policy.plan(facts, state.protected(), now_s=epoch_seconds())


def retire(log: RunLog, plan: RetentionPlan, *, reason: str) -> None:
    """Append Retire for the plan's versions, in batches.

    Raises:
        RuleRefusedError: a version became protected since the plan was made, or a damaged slot is not yet repaired.
    """
    for start in range(0, len(plan.retire), _BATCH):
        numbers = plan.retire[start : start + _BATCH]
        names = tuple(log.state.versions[number].name for number in numbers)
        body = Retire(versions=names, reason=reason)
        log.append(lambda _, body=body: body)  # type: ignore[misc]


def _facts(store: ObjectStore, state: RunState, number: int, *, wanted: bool) -> dict[str, Any]:
    """Metrics and epoch; a version whose manifest is lost or damaged is never among the best.

    Any other error says nothing of the version: a store that did not answer once must not cost the best one.
    """
    if not wanted:
        return {"metrics": {}}
    try:
        manifest = load_manifest(store, state.run, state.versions[number])
    except (DamageError, MissingError):
        return {"metrics": {}}
    except PawlError:
        return {"metrics": {}, "readable": False}
    return {"metrics": dict(manifest.metrics), "epoch": manifest.progress.epoch}


def _seconds(at: str) -> float | None:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return None
