"""Retention and garbage collection over runs: planned, published, carried out."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ray_workers.config import Retention
from ray_workers.maintaining import MaintenancePlan, maintain_run, plan_maintenance
from ray_workers.policies.thinning_text import parse_duration, policy_of
from ray_workers.store import keys
from ray_workers.store.attempts import run_names, this_process
from ray_workers.store.errors import PawlError
from tasks.blocks import storage_target
from tasks.markdown_text import plain

__all__ = ["Done", "Plans", "carry_out", "plan_page", "plan_runs", "publish_plan"]

ARTIFACT_KEY = "pawl-maintenance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    runs: tuple[MaintenancePlan, ...]
    unreadable: dict[str, str]
    """Run to the reason why no plan could be made."""
    grace_s: float

    @property
    def headline(self) -> str:
        size = sum(plan.sweep.bytes for plan in self.runs)
        retire = sum(len(plan.retention.retire) for plan in self.runs if plan.retention)
        condemn = sum(len(plan.sweep.condemn) for plan in self.runs)
        return f"retire {retire} versions, condemn {condemn}, delete {size / 1e6:.2f} MB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    message: str
    failed: bool


@task(cache_policy=NO_CACHE, task_run_name="plan-maintenance", persist_result=False)
def plan_runs(
    storage: str | None, runs: list[str] | None, retention: Retention, grace: str
) -> Plans:
    """The plan of every run; one that cannot be read is named and does not stop the others."""
    policy, grace_s = policy_of(retention), parse_duration(grace)
    store = storage_target(storage).open().store
    names = [keys.check_run_name(run) for run in runs] if runs else run_names(store)
    plans, unreadable = [], {}
    for name in names:
        try:
            plans.append(plan_maintenance(store, name, policy=policy, grace_s=grace_s))
        except PawlError as error:
            unreadable[name] = error.message
    return Plans(runs=tuple(plans), unreadable=unreadable, grace_s=grace_s)


@task(cache_policy=NO_CACHE, task_run_name="publish-maintenance-plan")
def publish_plan(plans: Plans) -> None:
    """One artifact, before anything is changed."""
    create_markdown_artifact(plan_page(plans), key=ARTIFACT_KEY, description=plans.headline)
    get_run_logger().info("Plan: %s", plans.headline)


@task(cache_policy=NO_CACHE, task_run_name="carry-out-maintenance", persist_result=False)
def carry_out(storage: str | None, plans: Plans) -> Done:
    """Do what was planned, run after run. What became protected since stays."""
    logger = get_run_logger()
    store = storage_target(storage).open(create=True).store
    size, troubles = 0, dict(plans.unreadable)
    for plan in plans.runs:
        try:
            report = maintain_run(
                store, plan, grace_s=plans.grace_s, by=this_process(), tell=logger.info
            )
        except PawlError as error:
            troubles[plan.run] = error.message
            continue
        size += sum(report.bytes_deleted.values())
        if report.plan.blocked is not None:
            troubles[plan.run] = f"nothing was deleted: {report.plan.blocked}"
    for run, why in troubles.items():
        logger.warning("%s: %s", run, why)
    message = f"{len(plans.runs)} runs, {size / 1e6:.2f} MB deleted"
    listed = "; ".join(f"{run}: {why}" for run, why in sorted(troubles.items()))
    return Done(message=f"{message}. {listed}" if listed else message, failed=bool(troubles))


def plan_page(plans: Plans) -> str:
    """The plan as Markdown, run after run."""
    parts = [f"# Maintenance plan\n\n{plans.headline}; grace {plans.grace_s / 3600:g} h."]
    for plan in plans.runs:
        lines = "\n".join(f"- {plain(line)}" for line in plan.lines())
        parts.append(f"## {plain(plan.run)}\n\n{lines}")
    parts += [
        f"## {plain(run)}\n\n- no plan: {plain(why)}"
        for run, why in sorted(plans.unreadable.items())
    ]
    return "\n\n".join(parts) + "\n"
