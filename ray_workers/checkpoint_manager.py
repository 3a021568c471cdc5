"""One attempt's coordinator, as a plain class: gathers shard reports, makes the manifest, commits, keeps the budget.

The actor around it is `checkpoint_actor`. Everything here runs under one lock, one commit at a time.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

from ray_workers.messages import PawlEvent, ShardReport, VersionOutcome
from ray_workers.store.attempts import resumed_from
from ray_workers.store.bodies import VersionName
from ray_workers.store.clock import utc_now
from ray_workers.store.commit import Base, CommittedVersion, commit_version
from ray_workers.store.errors import FenceLostError, PawlError, RetryableError, RuleRefusedError
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import DROPPED_REASON, DROPPED_SAVES, VersionRef, check_coverage
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.versions import load_manifest
from ray_workers.version_assembly import (
    AttemptIdentity,
    assemble_manifest,
    committed_facts,
    committed_sentence,
)

__all__ = ["CheckpointManager"]

_LOG_PATIENCE_S = 900.0
_MAX_REASON = 500
_LOST = "another rank's shard of it was lost with the checkpoint actor that died"


@dataclass(slots=True)
class _Pending:
    world_size: int
    reports: dict[int, ShardReport] = field(default_factory=dict)


class CheckpointManager:
    """Coordinates one attempt.

    Args:
        store: where the run lives.
        attempt: whose versions these are.
        failure_budget: versions that may be dropped in a row; one more stops the attempt.
    """

    def __init__(
        self, store: ObjectStore, attempt: AttemptIdentity, *, failure_budget: int
    ) -> None:
        self._store = store
        self._attempt = attempt
        self._budget = failure_budget
        self._log = RunLog(store, attempt.run, by=attempt.by, patience_s=_LOG_PATIENCE_S)
        self._lock = threading.Lock()
        self._pending: dict[int, _Pending] = {}
        self._outcomes: dict[int, VersionOutcome] = {}
        self._lost: dict[int, set[int]] = {}
        """Steps of which a save went down with an earlier coordinator, and the ranks whose shards of it are accounted for."""
        self._parent: VersionRef | None = None
        """This attempt's last version."""
        self._newest = -1
        """Its step."""
        self._last: Base | None = None
        """The same, for the next to build on."""
        self._dropped_in_a_row = 0
        self._dropped_reason = ""
        self._stop: str | None = None
        self._events: list[PawlEvent] = []

    def gather(self, report: ShardReport) -> VersionOutcome | None:
        """Take one rank's durable shard. The report that completes a version commits it.

        Returns:
            What became of the version; None while other ranks are missing.
        """
        step = report.staged.progress.step
        with self._lock:
            if step in self._outcomes:
                return self._outcomes[step]
            if report.fence != self._attempt.fence:
                return self._dropped(
                    step,
                    f"its shard was stored under fence {report.fence}, not {self._attempt.fence}",
                )
            if self._lost_before(report):
                return self.lost(step)
            if step < self._newest:
                return self._dropped(step, self._overtaken())
            pending = self._pending.setdefault(step, _Pending(report.staged.world_size))
            pending.reports[report.staged.rank] = report
            if len(pending.reports) < pending.world_size:
                return None
            del self._pending[step]
            outcome = self._commit(
                step, [pending.reports[rank] for rank in sorted(pending.reports)]
            )
            if outcome.number is not None:
                self._drop_older(step)
            return outcome

    def give_up(self, step: int, reason: str) -> VersionOutcome:
        """One rank has no shard for this step and never will: drop the version, spend the budget."""
        with self._lock:
            if step in self._outcomes:
                return self._outcomes[step]
            self._pending.pop(step, None)
            return self._dropped(step, reason)

    def lose(self, step: int, rank: int, reason: str) -> VersionOutcome:
        """As `give_up`, for a save whose shard of `rank` an earlier coordinator took with it when it died.

        No store refused it, so it spends none of the budget. A rank whose shard of that save comes here, or came, must
        not wait for the rest; but the same step may be saved once more, as a training's last one is until it stands.
        """
        with self._lock:
            if step in self._outcomes:
                return self._outcomes[step]
            told = self._lost.setdefault(step, set())
            told.add(rank)
            # Where no shard waits here it may be a version all the same: only its answer was lost.
            if (pending := self._pending.pop(step, None)) is not None:
                told.update(pending.reports)
                self._tell_dropped(step, reason)
            return self.lost(step, reason)

    def _lost_before(self, report: ShardReport) -> bool:
        """Whether it belongs to a save that was lost already; each rank has one shard of that save."""
        told = self._lost.get(report.staged.progress.step)
        if told is None or report.staged.rank in told:
            return False
        told.add(report.staged.rank)
        return True

    def lost(self, step: int, reason: str = _LOST) -> VersionOutcome:
        """What is said of a step whose save was lost."""
        return VersionOutcome(step=step, number=None, reason=reason, stop=self._stop)

    def waits_for(self, step: int) -> bool:
        """Whether shards of this step wait here for those of other ranks. Does not wait for a commit that runs."""
        return step in self._pending

    def outcome(self, step: int) -> VersionOutcome | None:
        return self._outcomes.get(step)

    def stop(self, reason: str) -> None:
        """Ask the attempt to end (`fence_lost` seen elsewhere, a deadline …)."""
        self._stop = self._stop or reason

    @property
    def stop_reason(self) -> str | None:
        return self._stop

    def drain_events(self) -> list[PawlEvent]:
        with self._lock:
            events, self._events = self._events, []
            return events

    def busy(self) -> bool:
        """Whether a version is still being gathered."""
        return bool(self._pending)

    def _drop_older(self, step: int) -> None:
        """Versions follow each other by step, so a save that is still half gathered behind this one never becomes one.

        Only now: shards of several saves are on their way at once, and come in any order. Until a newer save is a version, an
        older one may be all that there will be.
        """
        self._newest = step
        for older in [s for s in self._pending if s < step]:
            del self._pending[older]
            self._dropped(older, self._overtaken())

    def _overtaken(self) -> str:
        return (
            f"the save of step {self._newest} became a version before all of its shards were stored"
        )

    def _commit(self, step: int, reports: list[ShardReport]) -> VersionOutcome:
        reused = frozenset[str]().union(*(report.reused for report in reports))
        begun = time.monotonic()
        try:
            manifest = assemble_manifest(
                self._attempt, self._parent or self._resume_point(), reports
            )
            manifest = replace(manifest, environment={**manifest.environment, **self._drops()})
            check_coverage(manifest)
            base = self._base_of(reused)
            done = commit_version(self._store, self._log, manifest, base=base)
        except FenceLostError as error:
            self._stop = "fence_lost"
            self._tell("fence_lost", error.message, by=error.details.get("by"))
            return self._settle(
                VersionOutcome(step=step, number=None, reason=error.message, stop="fence_lost")
            )
        except PawlError as error:
            # Whatever is wrong with the base, the next version does without; a store that is ill is not the base's fault.
            resend = bool(reused) and not isinstance(error, RetryableError)
            return self._dropped(step, error.message, resend=resend)
        self._last = Base(name=_name(done), shards=manifest.shards, reused=frozenset())
        self._parent = VersionRef(run=None, number=done.number, digest=done.manifest)
        self._dropped_in_a_row = 0
        persist_s = max(r.took_s for r in reports) + time.monotonic() - begun
        facts = {**committed_facts(done, manifest, reports), "persist_s": persist_s}
        self._tell("committed", committed_sentence(done, manifest, reports), **facts)
        return self._settle(
            VersionOutcome(
                step=step,
                number=done.number,
                stop=self._stop,
                persist_s=persist_s,
                stall_s=max(r.staged.staged_s for r in reports),
                bytes=done.bytes,
                bytes_new=done.bytes_new,
            )
        )

    def _base_of(self, reused: frozenset[str]) -> Base | None:
        """The version that holds all that is not sent again: this attempt's last, or the one that it resumed from.

        Raises:
            RuleRefusedError: neither does.
        """
        if not reused:
            return None
        if _holds(self._last, reused):
            return self._last and replace(self._last, reused=reused)
        resumed = self._resumed_base()
        if _holds(resumed, reused):
            return resumed and replace(resumed, reused=reused)
        raise RuleRefusedError(
            "shards of an earlier version are named that neither this attempt's last version nor the one resumed from "
            "holds; the next save sends everything",
            rule="Commit",
        )

    def _resumed_base(self) -> Base | None:
        point = resumed_from(self._log.refresh(), self._attempt.fence)
        if point is None or point.run is not None:
            return None
        version = self._log.state.find(VersionName(number=point.number, manifest=point.digest))
        if version is None or not version.readable:
            return None
        shards = load_manifest(self._store, self._attempt.run, version).shards
        return Base(name=version.name, shards=shards, reused=frozenset())

    def _resume_point(self) -> VersionRef | None:
        """What the workers restored: they may have left the version that the attempt began with."""
        return resumed_from(self._log.refresh(), self._attempt.fence) or self._attempt.parent

    def _dropped(self, step: int, reason: str, *, resend: bool = False) -> VersionOutcome:
        self._dropped_in_a_row += 1
        self._dropped_reason = reason
        self._tell_dropped(step, reason)
        if self._dropped_in_a_row > self._budget and self._stop is None:
            self._stop = "budget_spent"
            self._tell(
                "budget_spent",
                f"{self._dropped_in_a_row} saves in a row were dropped and the failure budget is {self._budget}: the "
                f"attempt ends, and can be retried. Last reason: {reason}",
                reason=reason,
            )
        return self._settle(
            VersionOutcome(step=step, number=None, reason=reason, stop=self._stop, resend=resend)
        )

    def _tell_dropped(self, step: int, reason: str) -> None:
        text = f"The save of step {step} was dropped: {reason}"
        self._tell("dropped", text, step=step, reason=reason)

    def _drops(self) -> dict[str, str]:
        """What the next version says of the saves before it: events are gone with the flow run, a manifest stays."""
        if not self._dropped_in_a_row:
            return {}
        count, reason = str(self._dropped_in_a_row), self._dropped_reason[:_MAX_REASON]
        return {DROPPED_SAVES: count, DROPPED_REASON: reason}

    def _settle(self, outcome: VersionOutcome) -> VersionOutcome:
        self._outcomes[outcome.step] = outcome
        return outcome

    def _tell(self, kind: str, message: str, **details: Any) -> None:
        self._events.append(PawlEvent(kind=kind, message=message, at=utc_now(), details=details))


def _holds(base: Base | None, reused: frozenset[str]) -> bool:
    return base is not None and reused <= {shard.key for shard in base.shards}


def _name(done: CommittedVersion) -> VersionName:
    return VersionName(number=done.number, manifest=done.manifest)
