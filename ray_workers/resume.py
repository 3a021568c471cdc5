"""Where an attempt starts from: the newest version that can be trusted, with a reason for each one passed over.

The choice is a record in the log before the first byte is read (FORMAT.md §9), and nothing is used that was not read
back and digested here. `ray.train.get_checkpoint` plays no part.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ray_workers.forking import origin_of
from ray_workers.messages import ResumePoint
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.store import keys
from ray_workers.store.attempts import read_run
from ray_workers.store.bodies import PassedOver, ResumeChosen, RunOrigin
from ray_workers.store.errors import (
    RefusedError,
    RuleRefusedError,
    VersionGoneError,
    VersionNotFoundError,
)
from ray_workers.store.log import RunLog
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_state import RUNGS, RunState, VersionState, rung_at_least
from ray_workers.store.versions import parse_reference, verify_bytes
from ray_workers.validation import record_verdicts, validate

__all__ = ["ResumeChoice", "ResumeSpec", "choose"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeSpec:
    """`auto`, `never`, or a version by reference."""

    mode: str
    run: str | None = None
    version: str | None = None

    @property
    def text(self) -> str:
        """As `parse` reads it."""
        return self.mode if self.run is None else f"{self.run}@{self.version}"

    @classmethod
    def parse(cls, text: str) -> ResumeSpec:
        """Raises `InvalidInputError` unless `text` is `auto`, `never` or `RUN@VERSION`."""
        if text in ("auto", "never"):
            return cls(mode=text)
        run, version = parse_reference(text)
        return cls(mode="version", run=run, version=version)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeChoice:
    point: ResumePoint | None
    """None: start from nothing."""
    passed_over: tuple[PassedOver, ...]


@dataclass(slots=True)
class _Search:
    store: ObjectStore
    log: RunLog
    fence: int
    required: str
    policy: SoundnessPolicy
    passed_over: dict[int, PassedOver]

    def record(self, candidate: VersionState) -> None:
        """Append the choice, with every newer candidate passed over."""
        chosen = ResumeChosen(
            fence=self.fence,
            version=candidate.name,
            passed_over=_listed(self.passed_over),
            required=self.required,
        )
        self.log.append(lambda _: chosen)


def choose(
    store: ObjectStore, log: RunLog, fence: int, *, required: str, policy: SoundnessPolicy,
    tell: Callable[[str], None] = lambda _: None,
) -> ResumeChoice:  # fmt: skip
    """Record, then read and verify, candidate after candidate, newest first, until one holds.

    A candidate without a usable verdict is validated in place. What fails is quarantined with its reason. Only when no
    version is left that could still be trusted does the attempt begin where the run began.

    Args:
        store: where the run lives.
        log: the run's log, writable.
        fence: the attempt's.
        required: the rung a resume point must have.
        policy: the bounds of *sound*.
        tell: progress, for people.

    Raises:
        FenceLostError: a newer attempt took over meanwhile.
        RefusedError: every version that is left is one that nothing speaks against, and that could not be brought to
            the required rung: to begin anew would lose its work.
        RetryableError: the store cannot be reached.
    """
    passed_over: dict[int, PassedOver] = {}
    search = _Search(store, log, fence, required, policy, passed_over)
    while True:
        state = log.refresh()
        candidate = _next_candidate(state, passed_over)
        if candidate is None:
            _refuse_to_lose(state, required, passed_over)
            return _from_origin(store, log, fence, required, passed_over)
        tell(
            f"Checking version {candidate.number} (step {candidate.step}, {candidate.rung}) before resuming from it"
        )
        started = time.monotonic()
        reason = _try(search, candidate)
        if reason is None:
            point = _point(state.run, log.state, candidate)
            taken = replace(point, verify_s=round(time.monotonic() - started, 3))
            return ResumeChoice(point=taken, passed_over=_listed(passed_over))
        tell(f"Version {candidate.number} is passed over: {reason}")
        passed_over[candidate.number] = PassedOver(version=candidate.name, reason=reason[:500])


def _next_candidate(state: RunState, passed_over: dict[int, PassedOver]) -> VersionState | None:
    for version in state.newest_first():
        if version.number in passed_over or version.abandoned or not version.readable:
            continue
        if version.quarantine is None:
            return version
        passed_over[version.number] = PassedOver(
            version=version.name, reason=f"quarantined: {version.quarantine}"[:500]
        )
    return None


def _try(search: _Search, candidate: VersionState) -> str | None:
    """None when `candidate` is chosen and whole; else why it is not."""
    store, log = search.store, search.log
    checker = f"resume of fence {search.fence}"
    run = log.state.run
    try:
        if not rung_at_least(candidate.rung, search.required):
            results = validate(store, candidate, state=log.state, policy=search.policy)
            record_verdicts(log, candidate, results, checker=checker)
            if not results[-1].passed:
                return results[-1].reason or f"check {results[-1].check!r} failed"
            if search.required == "restorable":
                return "no restore drill has restored it yet"
            search.record(candidate)
            return None
        search.record(candidate)
        result, _ = verify_bytes(store, run, candidate)
        if result.passed:
            return None
        record_verdicts(log, candidate, [result], checker=checker)
    except (RuleRefusedError, VersionGoneError) as error:
        return error.message  # quarantined, rolled back or given up since it was looked at
    return result.reason or "its bytes are bad"


def _listed(passed_over: dict[int, PassedOver]) -> tuple[PassedOver, ...]:
    """Newest first, and no more than a record can hold."""
    return tuple(passed_over[number] for number in sorted(passed_over, reverse=True))[:50]


def _refuse_to_lose(state: RunState, required: str, passed_over: dict[int, PassedOver]) -> None:
    """Raise `RefusedError` if a version was passed over that is neither bad nor given up."""
    newest = next((v for v in state.newest_first() if v.candidate), None)
    if newest is None:
        return
    over = passed_over.get(newest.number)
    why = "it was not looked at" if over is None else over.reason
    ways = [f"start with --required {newest.rung}"] if newest.rung != RUNGS[0] else []
    if newest.rung == "sound":
        ways.insert(0, f"let `pawl drill {state.run}@{newest.number}` restore it")
    raise RefusedError(
        f"Run {state.run!r} does not begin anew while it has version {newest.number} (step {newest.step}, "
        f"{newest.rung}), which is not known to be {required}: {why}. To go on from it, "
        f"{', or '.join(ways) or 'mend that'}; --resume never gives it up.",
        number=newest.number,
    )


def _point(run: str, state: RunState, version: VersionState) -> ResumePoint:
    present = state.find(version.name) or version
    return ResumePoint(
        run=run,
        name=version.name,
        manifest_key=keys.manifest_key(run, version.fence, version.manifest),
        step=version.step,
        rung=present.rung,
        foreign=False,
    )


def _from_origin(
    store: ObjectStore, log: RunLog, fence: int, required: str, passed_over: dict[int, PassedOver]
) -> ResumeChoice:
    """No version of its own: a fork starts from its origin, any other run from nothing."""
    origin = origin_of(store, log.state)
    listed = _listed(passed_over)
    version = None if origin is None else origin.version
    log.append(
        lambda _: ResumeChosen(
            fence=fence, version=version, origin=origin, passed_over=listed, required=required
        )
    )
    point = None if origin is None else _origin_point(store, origin)
    return ResumeChoice(point=point, passed_over=listed)


def _origin_point(store: ObjectStore, origin: RunOrigin) -> ResumePoint:
    state = read_run(store, origin.run)
    version = state.find(origin.version) if state.run_id == origin.run_id else None
    if version is None or not version.readable:
        raise VersionNotFoundError(
            f"This run was forked from version {origin.version.number} of run {origin.run!r}, which is gone."
        )
    result, _ = verify_bytes(store, origin.run, version)
    if not result.passed:
        raise VersionNotFoundError(
            f"This run was forked from version {version.number} of run {origin.run!r}, whose bytes are bad: "
            f"{result.reason}"
        )
    return ResumePoint(
        run=origin.run,
        name=version.name,
        manifest_key=keys.manifest_key(origin.run, version.fence, version.manifest),
        step=version.step,
        rung=version.rung,
        foreign=True,
    )
