"""Reports of runs that never were, but could have been: attempts that die, resume, redo, and a version gone bad."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from ray_workers.report import AttemptRow, ReportProgress, RunReport, VersionRow

_START = datetime(2026, 11, 24, 2, 40, tzinfo=UTC)
_STEPS_OF_EPOCH = 224
_EPOCHS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What one attempt does: where it resumes, how far it gets, how it ends."""

    resumed_from: str | None = None
    until: int
    outcome: str | None = None
    reason: str | None = None
    passed_over: tuple[tuple[str, str], ...] = ()
    lr: float = 0.001
    workers: int = 2


def loss_at(step: int) -> float:
    return 0.06 + 2.2 * float(np.exp(-step / 170))


def made_up_report(
    lives: Sequence[Life],
    *,
    every: int = 100,
    noise: float = 0.12,
    start_step: int = 0,
    loss: Callable[[int], float] = loss_at,
    **fields: Any,
) -> RunReport:
    """A report in which every life commits a sound version each `every` steps."""
    random = np.random.default_rng(7)
    versions: list[VersionRow] = []
    attempts: list[AttemptRow] = []
    curve: list[tuple[int, float, int]] = []
    clock = _START
    reached = start_step
    for number, life in enumerate(lives, start=1):
        begin = next((v.step for v in versions if str(v.number) == life.resumed_from), start_step)
        began = clock
        for step in range(begin + 1, life.until + 1):
            clock += timedelta(seconds=0.11)
            here = loss(step) * float(np.exp(random.normal(0, noise)))
            curve.append((step, here, number))
            if step % every == 0:
                versions.append(_version(versions, step, here, number, life, clock))
        lost = reached - begin
        attempts.append(_attempt(number, life, begin, lost, (began, clock)))
        reached = max(reached, life.until)
        clock += timedelta(seconds=37)
    defaults: dict[str, Any] = {
        "run": "digits",
        "run_id": "5f1c0a5e1d6d4c6fa3f0a7d9c1f2b3e4",
        "url": "s3://training/pawl",
        "progress": ReportProgress(
            step=lives[-1].until if lives else 0,
            epoch=(lives[-1].until if lives else 0) // _STEPS_OF_EPOCH,
            epochs_wanted=_EPOCHS,
        ),
        "generated_at": clock.isoformat(),
    }
    report = RunReport(
        versions=tuple(versions), attempts=tuple(attempts), curve=tuple(curve), **defaults
    )
    return replace(report, **fields)


def _version(
    versions: list[VersionRow], step: int, loss: float, number: int, life: Life, at: datetime
) -> VersionRow:
    mine = [v for v in versions if v.attempt == number]
    index = len(versions) + 1
    return VersionRow(
        number=index,
        step=step,
        epoch=step // _STEPS_OF_EPOCH,
        metrics={"loss": loss, "accuracy": 1 - loss / 4},
        bytes=84_312 + index,
        rung="sound",
        digest=hashlib.sha256(f"{number} {step}".encode()).hexdigest(),
        fence=number * 40,
        attempt=number,
        parent=str(mine[-1].number) if mine else life.resumed_from,
        config={"epochs": _EPOCHS, "batch_size": 32, "lr": life.lr, "hidden": 64, "dropout": 0.1},
        committed_at=at.isoformat(),
        world_size=life.workers,
        duration_s=0.31,
        throughput_bytes_s=84_312 / 0.31,
    )


def _attempt(
    number: int, life: Life, begin: int, lost: int, times: tuple[datetime, datetime]
) -> AttemptRow:
    return AttemptRow(
        number=number,
        fence=number * 40,
        incarnation=0,
        flow_run_id="0f2b7c1e-6a54-4a52-9d0e-6f1c6f0f8a11",
        run_count=number,
        started_at=times[0].isoformat(),
        ended_at=times[1].isoformat() if life.outcome else None,
        outcome=life.outcome,
        reason=life.reason,
        resumed_from=life.resumed_from,
        resume_step=begin if life.resumed_from else None,
        resumed_at=times[0].isoformat(),
        required="sound" if life.resumed_from else None,
        passed_over=life.passed_over,
        steps_lost=lost if number > 1 else None,
        seconds_lost=lost * 0.11 + 37 if number > 1 else None,
        host="node-1",
    )


def with_version(report: RunReport, number: int, **changes: Any) -> RunReport:
    """The report with one version changed."""
    versions = tuple(replace(v, **changes) if v.number == number else v for v in report.versions)
    return replace(report, versions=versions)


NORM_JUMP = (
    "the L2 norm of the parameters went from 11.4 to 1.92e+06, a factor of 1.68e+05; 10 is allowed"
)
BAD_DIGEST = (
    "runs/digits/shards/00000000000000000040/5b7c…e1.safetensors is damaged: its digest is "
    "xxh3-128:1d0f…, but xxh3-128:88c2… was written"
)


def killed_twice() -> RunReport:
    """Killed, resumed past a damaged version, killed again, now running with another learning rate."""
    report = made_up_report(
        (
            Life(until=543, outcome="crashed", reason="kill -9 of the flow process"),
            Life(
                resumed_from="4",
                until=737,
                outcome="failed",
                reason="worker rank 1 died (SIGKILL)",
                passed_over=(("5", BAD_DIGEST),),
            ),
            Life(
                resumed_from="7",
                until=1187,
                lr=0.0005,
                passed_over=(
                    ("8", f"quarantined: {NORM_JUMP}"),
                    ("5", f"quarantined: {BAD_DIGEST}"),
                ),
            ),
        ),
        retention=("keep the newest 10", "keep version 4: tagged before-lr", "0 versions retired"),
    )
    report = with_version(report, 5, rung="quarantined", reason=BAD_DIGEST)
    report = with_version(report, 8, rung="quarantined", reason=NORM_JUMP)
    report = with_version(report, 4, tags=("before-lr",))
    report = with_version(report, 12, rung="verified")
    return with_version(report, 13, rung="committed")
