"""Reports of two attempts and more, with the times at which everything happened."""

from __future__ import annotations

from typing import Any

from ray_workers.report import AttemptRow, ReportProgress, RunReport, VersionRow

__all__ = ["STARTUP", "at", "attempt", "report", "version"]

STARTUP = {"verify_s": 1.0, "start_s": 2.0, "restore_s": 3.0, "warm_up_s": 0.5}


def at(second: int) -> str:
    return f"2026-11-24T09:{second // 60:02d}:{second % 60:02d}+00:00"


def attempt(number: int, start: int, **values: Any) -> AttemptRow:
    return AttemptRow(
        number=number, fence=number, incarnation=0, flow_run_id="f", run_count=number, started_at=at(start),
        host="node-1", **values,
    )  # fmt: skip


def version(number: int, by: int, step: int, second: int, **values: Any) -> VersionRow:
    return VersionRow(
        number=number, step=step, epoch=0, metrics={}, bytes=1, rung="sound", digest="d", fence=by, attempt=by,
        committed_at=at(second), world_size=1, **values,
    )  # fmt: skip


def report(attempts, versions) -> RunReport:
    return RunReport(
        run="run", run_id="id", url="memory://", versions=tuple(versions), attempts=tuple(attempts), curve=(),
        progress=ReportProgress(step=0, epoch=0), generated_at=at(0),
    )  # fmt: skip
