"""A version that fails while it is being restored: all ranks leave it together and take the next one, in the same attempt.

That is so if it does not hold where it is read again, on the first rank and on the last. If it holds there, the machine
of the rank that failed is at fault: the version keeps its rung, and the attempt ends, to be tried again.
Rank 0 chooses again, with the same record and the same checks as at the attempt's start; the others are told. Nothing of
a failed restore lasts: the next version fills every tensor and every plain value anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import socket
from dataclasses import dataclass
from typing import Self

from ray_workers.context import TrainingContext
from ray_workers.decisions import DecisionChannel
from ray_workers.messages import ResumePoint
from ray_workers.resume import choose
from ray_workers.store.attempts import read_run, this_process
from ray_workers.store.bodies import VersionName
from ray_workers.store.errors import DamageError, TrainingFailedError, VersionGoneError
from ray_workers.store.log import RunLog
from ray_workers.store.versions import CheckResult, verify_bytes
from ray_workers.validation import record_verdicts

__all__ = ["BadRead", "next_point"]

_log = logging.getLogger("pawl")


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRead:
    """What a rank met that could not read the version; told to all ranks as text."""

    rank: int
    node: str
    problem: str

    @classmethod
    def here(cls, context: TrainingContext, problem: str) -> Self:
        return cls(rank=context.rank, node=socket.gethostname(), problem=problem)

    def spell(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def read(cls, text: str) -> Self:
        return cls(**json.loads(text))


def next_point(
    context: TrainingContext, channel: DecisionChannel, failed: ResumePoint, met: BadRead
) -> ResumePoint:
    """The version to restore after `failed`; called by all ranks together.

    Raises:
        TrainingFailedError: `failed` holds elsewhere, so nothing is known against it; of every rank.
        DamageError: no other version can be resumed. Some rank may hold parts of the failed one by now, so this process
            cannot start from nothing; the attempt ends, and the next one can.
    """
    found = _read_again(context, failed)
    holds = found is not None and found.passed
    witness = channel.any_failed(_place(context.rank, socket.gethostname()) if holds else None)
    if witness is not None:
        raise _not_its_fault(failed, met, witness)
    point = _choose_again(context, failed, found) if context.rank == 0 else None
    told = json.loads(channel.tell(_spell(point)))
    if told is None:
        raise DamageError(
            f"Version {failed.name.number} of run {failed.run!r} failed while it was restored ({met.problem}), and no "
            "other version of the run can be resumed by this attempt.",
        )
    return _read(told)


def _read_again(context: TrainingContext, failed: ResumePoint) -> CheckResult | None:
    """Whether every byte of the version holds here; None: not this rank's to say, or there is no such version.

    The first and the last rank are on different machines if any two are.
    """
    if context.rank not in (0, context.world_size - 1):
        return None
    store = context.storage.open().store
    version = read_run(store, failed.run).find(failed.name)
    return None if version is None else verify_bytes(store, failed.run, version)[0]


def _place(rank: int, node: str) -> str:
    return f"rank {rank} on {node}"


def _not_its_fault(failed: ResumePoint, met: BadRead, witness: str) -> TrainingFailedError:
    return TrainingFailedError(
        f"Version {failed.name.number} of run {failed.run!r} failed while {_place(met.rank, met.node)} restored it "
        f"({met.problem}), and all its bytes hold where {witness} reads them: the fault is that machine's, its memory's or "
        "its network's, and the version stays trusted. If the next try fails there too, take that node out.",
        rank=met.rank,
        node=met.node,
    )


def _choose_again(
    context: TrainingContext, failed: ResumePoint, found: CheckResult | None
) -> ResumePoint | None:
    if failed.foreign:
        return None  # a fork has no other beginning than its origin
    store = context.storage.open().store
    log = RunLog(store, context.run, by=this_process(), patience_s=120.0)
    version = log.state.find(failed.name)
    if version is not None and found is not None:
        # Condemned meanwhile: a missing object is no damage then, and there is no verdict.
        with contextlib.suppress(VersionGoneError):
            record_verdicts(log, version, [found], checker=f"worker of fence {context.fence}")
    _log.warning(
        "Version %d (step %d) failed while it was restored and is left by all ranks: %s",
        failed.name.number,
        failed.step,
        None if found is None else found.reason,
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
