"""Read stored versions again, and tell what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ray_workers.scrubbing import Pace, Scrubbed, scrub_run
from ray_workers.store import keys
from ray_workers.store.attempts import run_names, this_process
from ray_workers.store.errors import PawlError
from ray_workers.store.log import RunLog
from tasks.blocks import storage_target
from tasks.events import announce
from tasks.markdown_text import plain
from tasks.run_identity import current_identity

__all__ = ["ScrubReport", "publish_scrub", "scrub_page", "scrub_runs"]

ARTIFACT_KEY = "pawl-scrub"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubReport:
    versions: tuple[Scrubbed, ...]
    unreadable: dict[str, str]
    """Run to the reason why it could not be scrubbed."""

    @property
    def bad(self) -> int:
        return sum(not item.passed for item in self.versions) + len(self.unreadable)

    @property
    def headline(self) -> str:
        size = sum(item.bytes for item in self.versions)
        return f"{len(self.versions)} versions read, {size / 1e6:.2f} MB, {self.bad} bad"


@task(cache_policy=NO_CACHE, task_run_name="scrub-runs", persist_result=False)
def scrub_runs(storage: str | None, runs: list[str] | None, bytes_per_second: float) -> ScrubReport:
    """Every run, at one rate for all; one that cannot be read does not stop the others."""
    logger, pace = get_run_logger(), Pace(bytes_per_second)
    store = storage_target(storage).open(create=True).store
    names = [keys.check_run_name(run) for run in runs] if runs else run_names(store)
    found: list[Scrubbed] = []
    unreadable: dict[str, str] = {}
    for name in names:
        try:
            log = RunLog(store, name, by=this_process(), patience_s=120.0)
            found += scrub_run(store, log, pace, tell=logger.info)
        except PawlError as error:
            unreadable[name] = error.message
            logger.warning("%s: %s", name, error.message)
    return ScrubReport(versions=tuple(found), unreadable=unreadable)


@task(cache_policy=NO_CACHE, task_run_name="publish-scrub")
def publish_scrub(report: ScrubReport) -> None:
    """One artifact under one key, and an event for each version that rotted, for automations to act on."""
    for item in report.versions:
        if not item.passed:
            said = {"number": item.version, "reason": item.reason}
            announce("pawl.version.quarantined", item.run, current_identity(), said)
    create_markdown_artifact(scrub_page(report), key=ARTIFACT_KEY, description=report.headline)


def scrub_page(report: ScrubReport) -> str:
    """What is bad, or that nothing is, as Markdown."""
    bad = [
        f"- {plain(item.run)} version {item.version}: {plain(item.reason or '', 400)}"
        for item in report.versions
        if not item.passed
    ]
    bad += [f"- {plain(run)}: {plain(why, 400)}" for run, why in sorted(report.unreadable.items())]
    return f"# Scrub\n\n{report.headline}\n\n" + "\n".join(bad or ["- nothing is bad"]) + "\n"
