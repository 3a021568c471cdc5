"""A restore drill: read a version back, restore it on fresh workers, take one step, judge, record.

It takes no fence and makes no version; all it writes is the verdict. The version is read like any reader's: one that is
given up meanwhile is gone, and that is no fault of anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_workers.config import Scaling
from ray_workers.drill_cluster import Restore, restore_on_workers
from ray_workers.drill_notes import DrillNotes
from ray_workers.drill_plan import followers, next_value, shape_of
from ray_workers.drill_verdict import DrillVerdict, Remembered, judge_drill
from ray_workers.drill_worker import DrillWork
from ray_workers.loss_probe import PROBE_METRIC
from ray_workers.messages import ResumePoint
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.store import keys
from ray_workers.store.attempts import this_process
from ray_workers.store.clock import utc_now
from ray_workers.store.errors import (
    DamageError,
    MissingError,
    PawlError,
    RetryableError,
    TrainingFailedError,
    VersionGoneError,
)
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import Manifest
from ray_workers.store.opening import StorageTarget
from ray_workers.store.run_state import VersionState, rung_at_least
from ray_workers.store.versions import CheckResult, load_manifest, verify_bytes
from ray_workers.validation import record_verdicts, validate

__all__ = ["Drill", "DrillOutcome", "drill_version"]

_CHECKER = "drill"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """One version to drill, and how."""

    target: StorageTarget
    run: str
    version: int
    code_dir: Path
    entrypoint: str | None = None
    """Of the loop; None: as it stands in the version."""
    ray_address: str | None = None
    """A cluster to join; None: start one."""
    policy: SoundnessPolicy = field(default_factory=SoundnessPolicy)
    metric: str = "loss"
    timeout_s: float = 1800.0
    """Longest time from a worker's start to the end of its first step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillOutcome:
    run: str
    number: int
    step: int
    passed: bool
    reason: str | None = None
    quarantined: bool = False
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """As it stands in the log, if it does."""


def drill_version(
    drill: Drill,
    *,
    restore: Callable[[Restore], tuple[DrillNotes, float]] = restore_on_workers,
    tell: Callable[[str], None] = lambda _: None,
) -> DrillOutcome:
    """Drill one version and record the verdict: *restorable*, or quarantine if the version is at fault.

    Called on the main thread, which Ray needs.

    Args:
        drill: what to drill.
        restore: does the restore itself: gives rank 0's notes and the seconds that the cluster took to start.
        tell: progress, for people.

    Raises:
        VersionGoneError: the version was given up; choose another.
        RetryableError: the store or the cluster cannot be reached: this says nothing about the version.
    """
    store = drill.target.open().store
    log = RunLog(store, drill.run, by=this_process(), patience_s=120.0)
    version = _readable(log, drill.version)
    one = _OneDrill(drill, log, version)
    if not rung_at_least(version.rung, "sound"):
        tell(f"Version {version.number} is {version.rung}: it is validated first")
        results = validate(store, version, state=log.state, policy=drill.policy)
        record_verdicts(log, version, results, checker=_CHECKER)
        if not results[-1].passed:
            return one.failed(results[-1].reason or "it is not sound")
    tell(f"Reading version {version.number} (step {version.step}) back")
    read, manifest = verify_bytes(store, drill.run, version)
    if manifest is None:
        return one.bad_bytes(read)
    try:
        wanted = one.restore(manifest)
        tell(f"Restoring version {version.number} on {wanted.shape.workers} fresh workers")
        notes, cluster_s = restore(wanted)
    except (DamageError, MissingError) as error:
        return one.damage_in_a_worker(error)
    except RetryableError as error:
        if not isinstance(error, TrainingFailedError):
            raise
        return one.failed(error.message)
    except PawlError as error:
        return one.failed(error.message)
    seconds = _phases(read, cluster_s, notes)
    return one.judged(manifest, notes, seconds)


def _readable(log: RunLog, number: int) -> VersionState:
    version = log.state.versions[number]
    if not version.candidate:
        raise VersionGoneError(
            f"Version {number} of run {log.state.run!r} is "
            f"{version.rung if version.readable else version.status}: choose another to drill.",
            number=number,
        )
    return version


def _phases(read: CheckResult, cluster_s: float, notes: DrillNotes) -> dict[str, float]:
    """In the order of time; together the recovery time that was measured."""
    seconds = notes.seconds
    return {
        "verify_s": float(read.evidence.get("seconds", 0.0)),
        "cluster_s": round(cluster_s, 3),
        "start_s": seconds.get("start_s", 0.0),
        "restore_s": seconds.get("restore_s", 0.0),
        "first_step_s": seconds.get("warm_up_s", 0.0),
    }


@dataclass(frozen=True, slots=True)
class _OneDrill:
    drill: Drill
    log: RunLog
    version: VersionState

    def restore(self, manifest: Manifest) -> Restore:
        drill, version = self.drill, self.version
        shape = shape_of(manifest, drill.entrypoint)
        point = ResumePoint(
            run=drill.run,
            name=version.name,
            manifest_key=keys.manifest_key(drill.run, version.fence, version.manifest),
            step=version.step,
            rung=version.rung,
            foreign=False,
        )
        scaling = Scaling(
            workers=shape.workers,
            cpus_per_worker=shape.cpus_per_worker,
            gpus_per_worker=shape.gpus_per_worker,
            ray_address=drill.ray_address,
        )
        target = drill.target
        return Restore(
            work=DrillWork(
                target=target if drill.ray_address is None else target.for_other_machines(),
                run=drill.run,
                run_id=str(self.log.state.run_id),
                point=point,
                entrypoint=shape.entrypoint,
                config=dict(manifest.config),
                environment=manifest.environment,
                launched_at=utc_now(),
                timeout_s=drill.timeout_s,
            ),
            shape=shape,
            scaling=scaling,
            code_dir=drill.code_dir,
        )

    def failed(self, reason: str, evidence: Mapping[str, Any] | None = None) -> DrillOutcome:
        """Nothing is recorded: the version keeps its rung, or has been quarantined before."""
        present = self.log.state.find(self.version.name) or self.version
        return DrillOutcome(
            run=self.drill.run,
            number=self.version.number,
            step=self.version.step,
            passed=False,
            reason=reason,
            quarantined=present.quarantine is not None,
            evidence=evidence or {},
        )

    def bad_bytes(self, result: CheckResult) -> DrillOutcome:
        """Raises `VersionGoneError` if it was given up meanwhile."""
        record_verdicts(self.log, self.version, [result], checker=_CHECKER)
        return self.failed(result.reason or "its bytes are bad")

    def damage_in_a_worker(self, error: PawlError) -> DrillOutcome:
        """Read again here: only what does not hold here either is the version's fault, and not that machine's."""
        again, _ = verify_bytes(self.drill.target.open().store, self.drill.run, self.version)
        if not again.passed:
            return self.bad_bytes(again)
        return self.failed(
            f"a worker read other bytes than this process: {error.message} They hold here, so the fault is that "
            "machine's or the network's."
        )

    def judged(
        self, manifest: Manifest, notes: DrillNotes, seconds: Mapping[str, float]
    ) -> DrillOutcome:
        verdict = judge_drill(self._remembered(manifest), notes, self.drill.policy.probe_tolerance)
        evidence = {
            "seconds": round(sum(seconds.values()), 3),
            **seconds,
            "workers": manifest.world_size,
            **verdict.evidence,
        }
        if not (verdict.passed or verdict.version_at_fault):
            return self.failed(verdict.reason or "it failed", evidence)
        self._record(verdict, evidence)
        return DrillOutcome(
            run=self.drill.run,
            number=self.version.number,
            step=self.version.step,
            passed=verdict.passed,
            reason=verdict.reason,
            quarantined=not verdict.passed,
            evidence=evidence,
        )

    def _record(self, verdict: DrillVerdict, evidence: Mapping[str, Any]) -> None:
        result = CheckResult(
            check="restorable", passed=verdict.passed, reason=verdict.reason, evidence=evidence
        )
        record_verdicts(self.log, self.version, [result], checker=_CHECKER)

    def _remembered(self, manifest: Manifest) -> Remembered:
        return Remembered(
            finished=manifest.progress.finished,
            probe=manifest.metrics.get(PROBE_METRIC),
            metric=self.drill.metric,
            next_value=self._next_value(manifest),
        )

    def _next_value(self, manifest: Manifest) -> float | None:
        store = self.drill.target.open().store
        for later in followers(self.log.refresh(), self.version):
            try:
                value = next_value(
                    manifest, load_manifest(store, self.drill.run, later), self.drill.metric
                )
            except (DamageError, MissingError):
                continue  # another version's fault
            if value is not None:
                return value
        return None
