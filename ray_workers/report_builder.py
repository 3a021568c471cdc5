"""From a run's log and manifests to the report that its page is drawn from. Reads only; needs no tensor library."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from ray_workers.attempt_losses import Loss, attempt_losses, resume_step
from ray_workers.report import AttemptRow, ReportProgress, RunReport, VersionRow
from ray_workers.startup import PHASES
from ray_workers.store.attempts import RESUME, read_run
from ray_workers.store.bodies import RunOrigin
from ray_workers.store.catalog import VersionCatalog, VersionEntry, attempt_numbers
from ray_workers.store.clock import utc_now
from ray_workers.store.errors import DamageError, MissingError
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.present_line import present_line
from ray_workers.store.run_state import AttemptState, RunState

__all__ = ["build_report"]

_METRIC = "loss"
_SAVING = ("staging_s", "upload_s")
"""The other durations are those of the attempt's start."""


def build_report(
    store: ObjectStore,
    run: str,
    *,
    retention: tuple[str, ...] = (),
    catalog: VersionCatalog | None = None,
    head: int | None = None,
) -> RunReport:
    """The run as it stands in the store now.

    Args:
        store: where the run lives.
        run: the run's name.
        retention: what retention did, a sentence each; the log does not say why.
        catalog: of the same run; give the same one each time, and manifests are read only once.
        head: number of the version that curves and progress lead up to, if not to the present state.

    Raises:
        RunNotFoundError: there is no such run.
        StoreUnavailableError, StoreRefusedError: the store does not let us read. Damage is no error here.
    """
    state = read_run(store, run)
    entries = (catalog or VersionCatalog(store, run)).entries(state)
    lineage = _lineage(state, entries, head)
    origin = state.origin
    origin_step = _origin_step(store, origin)
    return RunReport(
        run=run,
        run_id=state.run_id or "",
        url=store.url,
        versions=tuple(_version_row(entry) for entry in entries),
        attempts=_attempt_rows(state, origin_step),
        curve=_curve(lineage, _METRIC, above=origin_step or 0),
        series={
            name: _curve(lineage, name, above=origin_step or 0) for name in _other_metrics(lineage)
        },
        forked_from=None if origin is None else f"{origin.run}@{origin.version.number}",
        damaged_slots=state.damaged,
        progress=_progress(lineage),
        generated_at=utc_now(),
        retention=retention,
    )


def _version_row(entry: VersionEntry) -> VersionRow:
    """What only the manifest knows is zero or empty when it cannot be used; `reason` says so then."""
    version, facts = entry.version, entry.facts
    durations = facts.durations if facts is not None else {}
    known = {name: durations[name] for name in _SAVING if name in durations}
    upload = known.get("upload_s")
    parent = None if facts is None else facts.parent
    return VersionRow(
        number=version.number,
        step=version.step,
        epoch=0 if facts is None else facts.progress.epoch,
        metrics={} if facts is None else facts.metrics,
        bytes=version.bytes,
        rung=version.rung,
        reason=entry.reason,
        digest=version.manifest,
        fence=version.fence,
        attempt=entry.attempt,
        parent=None if parent is None else _reference(parent.run, parent.number),
        config={} if facts is None else facts.config,
        committed_at=version.at,
        world_size=0 if facts is None else facts.world_size,
        tags=entry.tags,
        status=entry.status,
        interrupted=None if facts is None else facts.interrupted,
        duration_s=sum(known.values()) if known else None,
        throughput_bytes_s=version.bytes / upload if upload else None,
        startup={name: durations[name] for name in PHASES if name in durations},
    )


def _reference(run: str | None, number: int) -> str:
    return str(number) if run is None else f"{run}@{number}"


def _origin_step(store: ObjectStore, origin: RunOrigin | None) -> int | None:
    """The step of the version that this run was forked from; None when that cannot be told any more."""
    if origin is None:
        return None
    try:
        state = read_run(store, origin.run)
    except (MissingError, DamageError):
        return None
    version = state.find(origin.version) if state.run_id == origin.run_id else None
    return None if version is None else version.step


# --- attempts ---------------------------------------------------------------------------------------------------


def _attempt_rows(state: RunState, origin_step: int | None) -> tuple[AttemptRow, ...]:
    losses = attempt_losses(state, origin_step)
    return tuple(
        _attempt_row(state, state.attempts[fence], number, losses[fence], origin_step)
        if fence in state.attempts
        else _unknown_attempt(state, fence, number)
        for fence, number in attempt_numbers(state).items()
    )


def _attempt_row(
    state: RunState, attempt: AttemptState, number: int, loss: Loss, origin_step: int | None
) -> AttemptRow:
    outcome, reason = attempt.outcome, attempt.reason
    if outcome is None and state.open_fence != attempt.fence:
        outcome, reason = (
            "lost",
            "its end was not recorded: it was killed, or a later one took over",
        )
    begun = state.begun(attempt)
    resume, origin = begun.resume, begun.resume_origin
    foreign = None if origin is None else origin.run
    return AttemptRow(
        number=number,
        fence=attempt.fence,
        incarnation=attempt.incarnation,
        flow_run_id=attempt.flow_run_id,
        run_count=attempt.run_count,
        started_at=attempt.at,
        ended_at=attempt.ended_at,
        outcome=outcome,
        reason=None if outcome == "completed" else reason,
        restarted=state.writer_before(attempt) is not None,
        resumed_from=None if resume is None else _reference(foreign, resume.number),
        resume_step=resume_step(state, begun, origin_step),
        resumed_at=begun.resume_at,
        asked=_asked(state, begun),
        required=attempt.required,
        passed_over=tuple((str(p.version.number), p.reason) for p in attempt.passed_over),
        steps_lost=loss.steps,
        seconds_lost=loss.seconds,
        host=str(attempt.by.get("host", "unknown")),
    )


def _asked(state: RunState, attempt: AttemptState) -> str | None:
    """Its flow run did as it was told at first: later tries of it go on from what that has made since.

    A version of another run is the fork's origin, and one that did not hold up was not begun from.
    """
    asked = attempt.by.get(RESUME)
    if not isinstance(asked, str) or attempt.passed_over:
        return None
    if asked != "never" and asked.rpartition("@")[0] != state.run:
        return None
    earlier = (a for a in state.attempts.values() if a.fence < attempt.fence)
    return None if any(a.flow_run_id == attempt.flow_run_id for a in earlier) else asked


def _unknown_attempt(state: RunState, fence: int, number: int) -> AttemptRow:
    """An attempt that is known only by what it committed: its start record is damaged."""
    first = min(v.number for v in state.versions.values() if v.fence == fence)
    return AttemptRow(
        number=number,
        fence=fence,
        incarnation=0,
        flow_run_id="unknown",
        run_count=0,
        started_at=state.versions[first].at,
        outcome="lost",
        reason="the record of its start is damaged",
        host="unknown",
    )


# --- the line of versions that the present state comes from -------------------------------------------------------


def _lineage(
    state: RunState, entries: Sequence[VersionEntry], head: int | None
) -> list[VersionEntry]:
    """The version `head`, or the newest state's, and its ancestors in this run, newest first."""
    by_number = {entry.version.number: entry for entry in entries}
    return [by_number[number] for number in present_line(state, dict(_parents(entries)), head=head)]


def _parents(entries: Sequence[VersionEntry]) -> Iterator[tuple[int, int | None]]:
    for entry in entries:
        if entry.facts is not None:
            parent = entry.facts.parent
            own = parent is not None and parent.run is None
            yield entry.version.number, parent.number if parent is not None and own else None


def _progress(lineage: Sequence[VersionEntry]) -> ReportProgress:
    if not lineage:
        return ReportProgress(step=0, epoch=0)
    facts = next((entry.facts for entry in lineage if entry.facts is not None), None)
    return ReportProgress(
        step=lineage[0].version.step,
        epoch=0 if facts is None else facts.progress.epoch,
        epochs_wanted=None if facts is None else facts.progress.epochs_wanted,
    )


def _other_metrics(lineage: Sequence[VersionEntry]) -> list[str]:
    found = (name for e in lineage if e.facts for name in (*e.facts.curve, *e.facts.metrics))
    return sorted({*found} - {_METRIC})


def _curve(
    lineage: Sequence[VersionEntry], metric: str, *, above: int
) -> tuple[tuple[int, float, int], ...]:
    """A metric along the present state's line, each step once, with the attempt that did it; ascending.

    A manifest carries the series since the run began as far as its writer knew it, so the newest comes first and
    older ones fill in what lies below its beginning. Steps up to `above` belong to the run that was forked.
    """
    points: list[tuple[int, float]] = []
    for entry in lineage:
        limit = points[-1][0] if points else entry.version.step + 1
        if limit <= above + 1:
            break
        own = dict(_series(entry, metric))
        points += [(s, own[s]) for s in sorted(own, reverse=True) if above < s < limit]
    return _with_doers(lineage, points[::-1])


def _series(entry: VersionEntry, metric: str) -> list[tuple[int, float]]:
    if entry.facts is None:
        return []
    curve = entry.facts.curve.get(metric)
    if curve is not None:
        return list(zip(curve.steps, curve.values, strict=True))
    value = entry.facts.metrics.get(metric)
    return [] if value is None else [(entry.version.step, value)]


def _with_doers(
    lineage: Sequence[VersionEntry], points: Sequence[tuple[int, float]]
) -> tuple[tuple[int, float, int], ...]:
    """Each with the attempt that did its step: the one that committed the oldest version at or above it."""
    oldest_first = lineage[::-1]
    reached = list(accumulate((entry.version.step for entry in oldest_first), max))
    return tuple((s, value, oldest_first[bisect_left(reached, s)].attempt) for s, value in points)
