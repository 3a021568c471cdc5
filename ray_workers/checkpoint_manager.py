"""One attempt's coordinator, as a plain class: gathers shard reports, makes the manifest, commits, keeps the budget.

The actor around it is `checkpoint_actor`. Everything here runs under one lock, one commit at a time.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

from ray_workers.messages import PawlEvent, SaveId, ShardReport, VersionOutcome
from ray_workers.store.clock import utc_now
from ray_workers.store.commit import CommittedVersion, commit_version
from ray_workers.store.errors import FenceLostError, PawlError, RetryableError, RuleRefusedError
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import DROPPED_REASON, DROPPED_SAVES, Manifest, check_coverage
from ray_workers.store.object_store import ObjectStore
from ray_workers.version_assembly import (
    AttemptIdentity,
    assemble_manifest,
    committed_facts,
    committed_sentence,
)
from ray_workers.version_base import Bases

__all__ = ["CheckpointManager"]

_LOG_PATIENCE_S = 900.0
_MAX_REASON = 500


@dataclass(slots=True)
class _Pending:
    world_size: int
    reports: dict[int, ShardReport] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Made:
    done: CommittedVersion
    manifest: Manifest
    before: bool = False
    """By an earlier try, so that it names the shards of that one."""


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
        self._pending: dict[SaveId, _Pending] = {}
        self._outcomes: dict[SaveId, VersionOutcome] = {}
        self._bases = Bases(store, self._log, attempt)
        self._newest = SaveId(step=-1)
        """The last save that became a version."""
        self._dropped_in_a_row = 0
        self._dropped_reason = ""
        self._stop: str | None = None
        self._events: list[PawlEvent] = []

    def gather(self, report: ShardReport) -> VersionOutcome | None:
        """Take one rank's durable shard. The report that completes a version commits it.

        Returns:
            What became of the version; None while other ranks are missing.
        """
        save = report.staged.save
        with self._lock:
            known = self._outcomes.get(save)
            if known is not None:
                # Stored once more, as after an agent's death: the version names the shards of the first time.
                return replace(known, resend=known.resend or known.number is not None)
            if report.fence != self._attempt.fence:
                return self._dropped(
                    save,
                    f"its shard was stored under fence {report.fence}, not {self._attempt.fence}",
                )
            if save < self._newest:
                return self._dropped(save, self._overtaken())
            pending = self._pending.setdefault(save, _Pending(report.staged.world_size))
            pending.reports[report.staged.rank] = report
            if len(pending.reports) < pending.world_size:
                return None
            outcome = self._commit(
                save, [pending.reports[rank] for rank in sorted(pending.reports)]
            )
            if outcome.number is not None:
                self._drop_older(save)
            return outcome

    def give_up(self, save: SaveId, reason: str) -> VersionOutcome:
        """One rank has no shard for this save and never will: drop the version, spend the budget."""
        with self._lock:
            return self._outcomes.get(save) or self._dropped(save, reason)

    def lose(self, save: SaveId, reason: str) -> VersionOutcome:
        """As `give_up`, for a save of which an earlier coordinator took a shard with it when it died.

        No store refused it, so it spends none of the budget.
        """
        with self._lock:
            if save in self._outcomes:
                return self._outcomes[save]
            # Where no shard waits here it may be a version all the same: only its answer was lost.
            if save in self._pending:
                self._tell_dropped(save, reason)
            return self._settle(
                save, VersionOutcome(step=save.step, number=None, reason=reason, stop=self._stop)
            )

    def outcome(self, save: SaveId) -> VersionOutcome | None:
        """What became of it. Does not wait for a commit that runs."""
        return self._outcomes.get(save)

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

    def _drop_older(self, save: SaveId) -> None:
        """Versions follow each other by step, so a save that is still half gathered behind this one never becomes one.

        Only now: shards of several saves are on their way at once, and come in any order. Until a newer save is a version, an
        older one may be all that there will be.
        """
        self._newest = save
        for older in [s for s in self._pending if s < save]:
            self._dropped(older, self._overtaken())

    def _overtaken(self) -> str:
        return f"the save of step {self._newest.step} became a version before all of its shards were stored"

    def _commit(self, save: SaveId, reports: list[ShardReport]) -> VersionOutcome:
        reused = frozenset[str]().union(*(report.reused for report in reports))
        begun = time.monotonic()
        try:
            made = self._made(save, reports, reused)
        except FenceLostError as error:
            self._stop = "fence_lost"
            self._tell("fence_lost", error.message, by=error.details.get("by"))
            outcome = VersionOutcome(
                step=save.step, number=None, reason=error.message, stop="fence_lost"
            )
            return self._settle(save, outcome)
        except PawlError as error:
            # Whatever is wrong with the base, the next version does without; a store that is ill is not the base's fault.
            resend = bool(reused) and not isinstance(error, RetryableError)
            return self._dropped(save, error.message, resend=resend)
        done, manifest = made.done, made.manifest
        self._bases.committed(done, None if made.before else manifest)
        self._dropped_in_a_row = 0
        persist_s = max(r.took_s for r in reports) + time.monotonic() - begun
        facts = {**committed_facts(done, manifest, reports), "persist_s": persist_s}
        self._tell("committed", committed_sentence(done, manifest, reports), **facts)
        outcome = VersionOutcome(
            step=save.step,
            number=done.number,
            stop=self._stop,
            resend=made.before,
            persist_s=persist_s,
            stall_s=max(r.staged.staged_s for r in reports),
            bytes=done.bytes,
            bytes_new=done.bytes_new,
        )
        return self._settle(save, outcome)

    def _made(self, save: SaveId, reports: list[ShardReport], reused: frozenset[str]) -> _Made:
        manifest = assemble_manifest(self._attempt, self._bases.parent(), reports)
        manifest = replace(manifest, environment={**manifest.environment, **self._drops()})
        check_coverage(manifest)
        try:
            base = self._bases.naming(reused)
            done = commit_version(self._store, self._log, manifest, base=base)
        except RuleRefusedError:
            landed = self._landed(save)
            if landed is None:
                raise
            return _Made(landed, manifest, before=True)
        return _Made(done, manifest)

    def _landed(self, save: SaveId) -> CommittedVersion | None:
        """This writer's version of that step: the record of an earlier try had no answer, and is in the log."""
        state = self._log.state
        own = state.attempts.get(self._attempt.fence)
        version = state.versions.get(own.last_commit or 0) if own is not None else None
        if version is None or version.step != save.step:
            return None
        return CommittedVersion(
            number=version.number, manifest=version.manifest, fence=version.fence, step=version.step,
            bytes=version.bytes, bytes_new=version.bytes, at=version.at,
        )  # fmt: skip

    def _dropped(self, save: SaveId, reason: str, *, resend: bool = False) -> VersionOutcome:
        self._dropped_in_a_row += 1
        self._dropped_reason = reason
        self._tell_dropped(save, reason)
        if self._dropped_in_a_row > self._budget and self._stop is None:
            self._stop = "budget_spent"
            self._tell(
                "budget_spent",
                f"{self._dropped_in_a_row} saves in a row were dropped and the failure budget is {self._budget}: the "
                f"attempt ends, and can be retried. Last reason: {reason}",
                reason=reason,
            )
        outcome = VersionOutcome(
            step=save.step, number=None, reason=reason, stop=self._stop, resend=resend
        )
        return self._settle(save, outcome)

    def _tell_dropped(self, save: SaveId, reason: str) -> None:
        text = f"The save of step {save.step} was dropped: {reason}"
        self._tell("dropped", text, step=save.step, reason=reason)

    def _drops(self) -> dict[str, str]:
        """What the next version says of the saves before it: events are gone with the flow run, a manifest stays."""
        if not self._dropped_in_a_row:
            return {}
        count, reason = str(self._dropped_in_a_row), self._dropped_reason[:_MAX_REASON]
        return {DROPPED_SAVES: count, DROPPED_REASON: reason}

    def _settle(self, save: SaveId, outcome: VersionOutcome) -> VersionOutcome:
        self._pending.pop(save, None)
        self._outcomes[save] = outcome
        return outcome

    def _tell(self, kind: str, message: str, **details: Any) -> None:
        self._events.append(PawlEvent(kind=kind, message=message, at=utc_now(), details=details))
