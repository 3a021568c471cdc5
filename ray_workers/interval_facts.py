"""What a run's own log and manifests say of saves and failures: the facts that the interval is chosen from. Reads only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ray_workers.attempt_chains import chain_of, end_cause
from ray_workers.attempt_losses import attempt_losses
from ray_workers.attempt_spans import instant, one_of_each, span_of
from ray_workers.config import Saving
from ray_workers.drill_times import drill_seconds
from ray_workers.interval_controller import IntervalPlan
from ray_workers.policies.failure_rate import PRIOR, Evidence, FailureRate
from ray_workers.policies.interval import IntervalCaps
from ray_workers.startup import PHASES
from ray_workers.store.attempts import read_run
from ray_workers.store.catalog import VersionCatalog, VersionEntry
from ray_workers.store.clock import epoch_seconds
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_state import RunState

__all__ = [
    "HALF_LIFE_HOURS",
    "MEDIAN_OF",
    "IntervalHistory",
    "caps_of",
    "failure_rate_of",
    "history_of",
    "older_entries",
    "plan_interval",
    "read_history",
    "restarts_of",
    "until_committed",
]

HALF_LIFE_HOURS = 14 * 24.0
"""Evidence this old counts half: clusters are repaired, moved and worn."""
_COUNTS_HOURS = 5 * HALF_LIFE_HOURS
"""Of an attempt that ended longer ago nobody asks any more on how many workers it ran."""
_COST = ("last_save_cost_s", "save_cost_s", "staging_s")
"""What the save before a version cost training; older Pawls told a median, or only how long it stood still."""
_NEWEST = 20
MEDIAN_OF = 5
"""The last so many saves, and restarts, say what the next one costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalHistory:
    """One run until now. Seconds, oldest first."""

    run: str
    workers: int
    """Of its newest version; 1 if there is none."""
    causes: Mapping[str, int]
    """Attempts by what ended them (`failure_causes.CAUSES`)."""
    evidence: tuple[Evidence, ...]
    """One for each attempt that trained."""
    costs_s: tuple[float, ...] = ()
    """Of a save, as training felt it."""
    persists_s: tuple[float, ...] = ()
    in_force_s: float | None = None
    """The interval when its newest version was made; None: thresholds alone counted, or an older Pawl made it."""
    restarts_s: tuple[float, ...] = ()
    """From a failure to the first new step, without the steps done again; of a run that never restarted, its drills."""
    bytes: int = 0
    """Of its newest version."""
    bytes_new: tuple[int, ...] = ()
    """As sent: of each version those that its base did not hold."""
    watched_s: float = 0.0
    """In which it trained, or failures of machines kept it from that. Pauses after any other end are not in it."""
    overhead: float | None = None
    """Share of the time that saves cost training, as it measured it; None: no two versions in a row."""
    lost_s: float = 0.0
    """Of `watched_s`, what failures of machines cost: work that was lost, and time until the next attempt began."""

    @property
    def worker_hours(self) -> float:
        return sum(item.worker_hours for item in self.evidence)


def read_history(
    store: ObjectStore, run: str, *, catalog: VersionCatalog | None = None
) -> IntervalHistory:
    """Of an existing run. Raises `RunNotFoundError`, or that the store cannot be read.

    Give the same `catalog` each time, and manifests are read only once.
    """
    state, now_s = read_run(store, run), epoch_seconds()
    catalog = catalog or VersionCatalog(store, run)
    newest = sorted(state.versions)[-_NEWEST:]
    entries = catalog.entries(state, newest)
    found = history_of(state, entries, now_s, older=older_entries(catalog, state, entries, now_s))
    # A run that never failed has no restart; what its drills took is the next best.
    return found if found.restarts_s else replace(found, restarts_s=drill_seconds(store, state))


def history_of(
    state: RunState,
    entries: Sequence[VersionEntry],
    now_s: float,
    *,
    older: Sequence[VersionEntry] = (),
) -> IntervalHistory:
    """What is known of a run.

    Args:
        state: what its log says.
        entries: its newest versions, oldest first.
        now_s: the time, in seconds since the epoch.
        older: versions of attempts that have none among these; they tell on how many workers those ran, and no more.
    """
    known = [entry for entry in entries if entry.facts is not None]
    told = [*older, *known]
    worlds = {entry.version.fence: entry.facts.world_size for entry in told if entry.facts}
    workers = worlds[known[-1].version.fence] if known else 1
    spans = {a.fence: span_of(state, a, now_s) for a in state.attempts.values()}
    causes = {a.fence: end_cause(state, a) for a in state.attempts.values()}
    evidence = [
        Evidence(
            failures=float(causes[fence] == "infrastructure"),
            worker_hours=(end - begin) * worlds.get(fence, workers) / 3600.0,
            age_hours=max(0.0, now_s - end) / 3600.0,
        )
        for fence, (begin, end) in spans.items()
    ]
    failed = _failures(causes)
    losses = attempt_losses(state, None)
    pauses = [(spans[before][1], spans[after][0]) for before, after in failed]
    return IntervalHistory(
        run=state.run,
        workers=workers,
        causes=_counted(causes.values()),
        evidence=tuple(evidence),
        costs_s=_durations(known, *_COST),
        persists_s=tuple(until_committed(known).values()),
        in_force_s=next(iter(_durations(known[-1:], "interval_s")), None),
        restarts_s=restarts_of(state, known),
        bytes=known[-1].version.bytes if known else 0,
        bytes_new=tuple(entry.bytes_new for entry in known if entry.bytes_new is not None),
        watched_s=_covered([*spans.values(), *pauses]),
        overhead=_overhead(state, known),
        lost_s=sum(losses[after].seconds or 0.0 for _, after in failed),
    )


def older_entries(
    catalog: VersionCatalog, state: RunState, entries: Sequence[VersionEntry], now_s: float
) -> tuple[VersionEntry, ...]:
    """One version of each attempt that still counts and has none among `entries`; for `history_of`."""
    fences = {entry.version.fence for entry in entries}
    return catalog.entries(
        state, one_of_each(state, now_s=now_s, within_s=_COUNTS_HOURS * 3600.0, besides=fences)
    )


def caps_of(saving: Saving) -> IntervalCaps:
    """Raises `InvalidInputError` when they leave no interval."""
    mb, gb = saving.network_mb_per_second, saving.storage_gb_per_day
    return IntervalCaps(
        min_s=saving.min_interval_seconds,
        max_s=saving.max_interval_seconds,
        overhead=saving.overhead_budget,
        network_bytes_s=None if mb is None else 1e6 * mb,
        storage_bytes_day=None if gb is None else 1e9 * gb,
    )


def failure_rate_of(own: Iterable[Evidence], elsewhere: Iterable[Evidence]) -> FailureRate:
    """By what the run has seen itself, and others on the same machines."""
    return PRIOR.after([*own, *elsewhere], HALF_LIFE_HOURS)


def plan_interval(
    history: IntervalHistory | None,
    saving: Saving,
    workers: int,
    elsewhere: Iterable[Evidence] = (),
) -> IntervalPlan | None:
    """What an attempt starts with; None when the thresholds alone are to count.

    Args:
        history: of the run; None before it has any.
        saving: what the user set.
        workers: of this attempt.
        elsewhere: failures of other runs on the same machines.
    """
    if saving.interval == "fixed":
        return None
    rate = failure_rate_of(() if history is None else history.evidence, elsewhere)
    if history is None:
        return IntervalPlan(caps=caps_of(saving), rate=rate, workers=workers)
    return IntervalPlan(
        caps=caps_of(saving),
        rate=rate,
        workers=workers,
        cost_s=_median(history.costs_s),
        persist_s=_median(history.persists_s),
        restore_s=_median(history.restarts_s) or 0.0,
        bytes=history.bytes,
        bytes_new=history.bytes_new[-MEDIAN_OF:],
        full_every=saving.full_every,
    )


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values[-MEDIAN_OF:]) if values else None


def _failures(causes: Mapping[int, str]) -> list[tuple[int, int]]:
    """Fences of the attempts that machines ended, and of the ones after them."""
    return [
        (before, after)
        for before, after in pairwise(sorted(causes))
        if causes[before] == "infrastructure"
    ]


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """How long at least one of them lasted."""
    covered, until = 0.0, -math.inf
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, until))
        until = max(until, end)
    return covered


def until_committed(entries: Sequence[VersionEntry]) -> dict[int, float]:
    """Of each version, by number: seconds from the begin of its copy until it was stored."""
    return _measured(entries, "durable_s", "upload_s")


def restarts_of(state: RunState, entries: Sequence[VersionEntry]) -> tuple[float, ...]:
    """Of each training that restored a version, oldest first: the sum of its start's phases."""
    found: dict[int, float] = {}
    for entry in entries:
        durations = entry.facts.durations if entry.facts else {}
        if "restore_s" in durations:
            # Every version of a training tells of its start, also under the fence of a restarted actor.
            begun = _begun(state, entry.version.fence)
            found.setdefault(begun, sum(durations.get(phase, 0.0) for phase in PHASES))
    return tuple(found.values())


def _begun(state: RunState, fence: int) -> int:
    """The fence with which the training began; of an attempt whose start record is damaged its own."""
    return chain_of(state, fence)[0].fence if fence in state.attempts else fence


def _durations(entries: Sequence[VersionEntry], *names: str) -> tuple[float, ...]:
    return tuple(_measured(entries, *names).values())


def _measured(entries: Sequence[VersionEntry], *names: str) -> dict[int, float]:
    """Of each version the first of `names` that its manifest has."""
    found = {}
    for entry in entries:
        durations = entry.facts.durations if entry.facts else {}
        value = next((durations[name] for name in names if name in durations), None)
        if value is not None:
            found[entry.version.number] = value
    return found


def _overhead(state: RunState, entries: Sequence[VersionEntry]) -> float | None:
    """Share of the time between two versions of one attempt that saves cost, and at least that training stood still.

    A pair with a third version between them does not count: what that one cost is not known any more.
    """
    before_it: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, version in sorted(state.versions.items()):
        if version.fence in last:
            before_it[number] = last[version.fence]
        last[version.fence] = number
    cost = passed = 0.0
    for before, after in pairwise(entries):
        follows = before_it.get(after.version.number) == before.version.number
        if follows and after.facts is not None:
            durations = after.facts.durations
            stood_s = durations.get("staging_s", 0.0)
            cost += max(stood_s, durations.get("last_save_cost_s", 0.0))
            passed += instant(after.version.at, 0.0) - instant(before.version.at, 0.0)
    return cost / passed if passed > 0 else None


def _counted(causes: Iterable[str]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for cause in causes:
        counted[cause] = counted.get(cause, 0) + 1
    return counted
