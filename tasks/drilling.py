"""Restore drills as a flow sees them: which, one after the other, and telling what came of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ray_workers.config import Drilling, Scaling
from ray_workers.drill_plan import pick_version, turn
from ray_workers.drilling import Drill, DrillOutcome, drill_version
from ray_workers.entrypoints import add_code_dir
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.store.attempts import read_run
from ray_workers.store.errors import (
    InvalidInputError,
    PawlError,
    VersionGoneError,
    VersionNotFoundError,
)
from ray_workers.store.keys import check_run_name
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_listing import list_runs
from ray_workers.store.run_state import RunState
from ray_workers.store.versions import best_version, find_version, parse_reference
from tasks.blocks import storage_target, use_cluster
from tasks.drill_page import DrillReport, Undone, drill_page
from tasks.events import announce
from tasks.run_identity import current_identity

__all__ = ["ARTIFACT_KEY", "DrillPlan", "carry_out_drills", "plan_drills", "publish_drills"]

ARTIFACT_KEY = "pawl-drill"

_SPARE = 3
"""So many times the drills that are wanted are tried at most: a run that cannot be drilled is the first again every night."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillPlan:
    drills: tuple[Drill, ...]
    """In their turns: the later ones are for those that come to no verdict."""
    most: int
    """Verdicts that are wanted."""
    undone: tuple[Undone, ...]
    """Runs that were named, or found, and cannot be drilled."""


@task(cache_policy=NO_CACHE, task_run_name="plan-drills", persist_result=False)
def plan_drills(values: Mapping[str, Any]) -> DrillPlan:
    """From the flow's parameters to versions by number; nothing is started yet.

    Raises:
        InvalidInputError, VersionNotFoundError, RunNotFoundError: a version that was named is not there, or the cluster
            cannot be used for drills.
    """
    drilling: Drilling = values["drilling"]
    target = storage_target(values["storage"])
    store = target.open(create=True).store
    address = _address(values["ray_address"], values["cluster"])
    chosen, undone = _named(store, values["versions"], drilling)
    if not values["versions"]:
        chosen, undone = _found(store, drilling)
    drills = [
        Drill(
            target=target,
            run=run,
            version=number,
            code_dir=Path(add_code_dir(values["code_dir"])),
            entrypoint=values["entrypoint"],
            ray_address=address,
            policy=SoundnessPolicy.of(values["validation"]),
            metric=drilling.metric,
            timeout_s=drilling.timeout_seconds,
        )
        for run, number in chosen[: _SPARE * drilling.most]
    ]
    return DrillPlan(drills=tuple(drills), most=drilling.most, undone=tuple(undone))


def _address(ray_address: str | None, cluster: str | None) -> str | None:
    scaling = use_cluster(Scaling(ray_address=ray_address, cluster=cluster))
    if scaling.jobs_address is not None:
        raise InvalidInputError(
            f"A drill cannot run as a Ray job ({scaling.jobs_address}): give the address of the cluster itself, host:6379, "
            "from one of its nodes, or none, to start a cluster on this machine."
        )
    return scaling.ray_address


def _named(
    store: ObjectStore, references: list[str] | None, drilling: Drilling
) -> tuple[list[tuple[str, int]], list[Undone]]:
    chosen = []
    for reference in references or []:
        if "@" not in reference:
            run = check_run_name(reference)
            chosen.append((run, pick_version(read_run(store, run), drilling.pick).number))
            continue
        run, name = parse_reference(reference)
        found = find_version(read_run(store, run), name, best=best_version(store, run))
        chosen.append((run, found.number))
    return chosen, []


def _found(store: ObjectStore, drilling: Drilling) -> tuple[list[tuple[str, int]], list[Undone]]:
    chosen: list[tuple[RunState, int]] = []
    undone = []
    for entry in list_runs(store):
        state = entry.state
        if state is None:
            undone.append(Undone(run=entry.run, reason=entry.problem or "its log cannot be read"))
        elif state.exists:
            try:
                chosen.append((state, pick_version(state, drilling.pick).number))
            except VersionNotFoundError as error:
                get_run_logger().info(error.message)
    chosen.sort(key=lambda one: turn(store, one[0]))
    return [(state.run, number) for state, number in chosen], undone


def carry_out_drills(plan: DrillPlan) -> DrillReport:
    """One after the other, each on a cluster of its own or on fresh workers of the one it joins.

    Not a task: Ray needs the main thread.
    """
    logger, identity = get_run_logger(), current_identity()
    done: list[DrillOutcome] = []
    undone = list(plan.undone)
    for drill in plan.drills:
        if len(done) == plan.most:
            break
        name = f"{drill.run}@{drill.version}"
        try:
            outcome = drill_version(drill, tell=logger.info)
        except VersionGoneError as error:
            logger.info("%s: %s", name, error.message)
            continue
        except PawlError as error:
            undone.append(Undone(run=name, reason=error.message))
            logger.warning("%s could not be drilled: %s", name, error.message)
            continue
        done.append(outcome)
        event = "pawl.drill.passed" if outcome.passed else "pawl.drill.failed"
        announce(event, outcome.run, identity, _payload(outcome))
    return DrillReport(outcomes=tuple(done), undone=tuple(undone))


def _payload(outcome: DrillOutcome) -> dict[str, Any]:
    return {
        "number": outcome.number,
        "step": outcome.step,
        "reason": outcome.reason,
        "quarantined": outcome.quarantined,
        **outcome.evidence,
    }


@task(cache_policy=NO_CACHE, task_run_name="publish-drills")
def publish_drills(report: DrillReport) -> None:
    """One artifact under one key."""
    create_markdown_artifact(drill_page(report), key=ARTIFACT_KEY, description=report.headline)
    get_run_logger().info(report.headline)
