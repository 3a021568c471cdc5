"""Compare versions, and publish what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ray_workers.comparison import Comparison, compare
from ray_workers.loading import open_version
from ray_workers.store.clock import utc_now
from tasks.blocks import storage_target
from tasks.comparison_page import render_html, render_markdown, sections

__all__ = ["ARTIFACT_KEY", "compare_versions", "publish_comparison"]

ARTIFACT_KEY = "pawl-comparison"


@task(cache_policy=NO_CACHE, task_run_name="compare-versions")
def compare_versions(
    references: Sequence[str], storage: str | None, *, weights: bool, metric: str, mode: str
) -> Comparison:
    """Read everything that is put side by side; the metric is what `RUN@best` goes by."""
    target = storage_target(storage)
    chosen = [open_version(reference, target, metric=metric, mode=mode) for reference in references]
    return compare(chosen, weights=weights, tell=get_run_logger().info)


@task(cache_policy=NO_CACHE, task_run_name="publish-comparison")
def publish_comparison(comparison: Comparison, html_file: str | None) -> None:
    """One artifact with pictures, and the same as a file if one is named."""
    parts = list(sections(comparison))
    names = ", ".join(version.reference for version in comparison.versions)
    create_markdown_artifact(render_markdown(parts), key=ARTIFACT_KEY, description=names)
    if html_file is not None:
        page = render_html(parts, title=names, at=utc_now())
        file = Path(html_file)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page, encoding="utf-8")
        get_run_logger().info("The comparison is in %s", html_file)
