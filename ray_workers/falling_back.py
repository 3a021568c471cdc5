"""A version that fails while it is being restored: all ranks leave it together and take the next one, in the same attempt.

Rank 0 quarantines it and chooses again, with the same record and the same checks as at the attempt's start; the others
are told. Nothing of a failed restore lasts: the next version fills every tensor and every plain value anew.
"""

from __future__ import annotations

import contextlib
import json
import logging

from ray_workers.context import TrainingContext
from ray_workers.decisions import DecisionChannel
from ray_workers.messages import ResumePoint
from ray_workers.resume import choose
from ray_workers.store.attempts import this_process
from ray_workers.store.bodies import VersionName
from ray_workers.store.errors import DamageError, VersionGoneError
from ray_workers.store.log import RunLog
from ray_workers.validation import CheckResult, record_verdicts

__all__ = ["next_point"]

_log = logging.getLogger("pawl")


def next_point(
    context: TrainingContext, channel: DecisionChannel, failed: ResumePoint, problem: str
) -> ResumePoint:
    """The version to restore after `failed`; called by all ranks together.

    Raises:
        DamageError: no other version can be resumed. Some rank may hold parts of the failed one by now, so this process
            cannot start from nothing; the attempt ends, and the next one can.
    """
    point = _choose_again(context, failed, problem) if context.rank == 0 else None
    told = json.loads(channel.tell(_spell(point)))
    if told is None:
        raise DamageError(
            f"Version {failed.name.number} of run {failed.run!r} failed while it was restored ({problem}), and no other "
            "version of the run can be resumed by this attempt.",
        )
    return _read(told)


def _choose_again(
    context: TrainingContext, failed: ResumePoint, problem: str
) -> ResumePoint | None:
    if failed.foreign:
        return None  # a fork has no other beginning than its origin
    store = context.storage.open().store
    log = RunLog(store, context.run, by=this_process(), patience_s=120.0)
    version = log.state.find(failed.name)
    if version is not None:
        result = CheckResult(check="bytes", passed=False, reason=problem)
        # Condemned meanwhile: a missing object is no damage then, and there is no verdict.
        with contextlib.suppress(VersionGoneError):
            record_verdicts(log, version, [result], checker=f"worker of fence {context.fence}")
    _log.warning(
        "Version %d (step %d) failed while it was restored and is left by all ranks: %s",
        failed.name.number,
        failed.step,
        problem,
    )
    choice = choose(store, log, context.fence, required=context.required, policy=context.policy)
    if choice.point is not None:
        _log.warning(
            "Restoring version %d (step %d) instead", choice.point.name.number, choice.point.step
        )
    return choice.point


def _spell(point: ResumePoint | None) -> str:
    if point is None:
        return "null"
    return json.dumps(
        {
            "run": point.run,
            "number": point.name.number,
            "manifest": point.name.manifest,
            "manifest_key": point.manifest_key,
            "step": point.step,
            "rung": point.rung,
            "foreign": point.foreign,
            "verify_s": point.verify_s,
        }
    )


def _read(told: dict[str, object]) -> ResumePoint:
    name = VersionName(number=told.pop("number"), manifest=told.pop("manifest"))  # type: ignore[arg-type]
    return ResumePoint(name=name, **told)  # type: ignore[arg-type]
