"""What a root stores: by run, by rung, by age; what sharing saves; how long a budget lasts. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ray_workers.store.run_state import RunState

__all__ = ["LetGoFacts", "Storage", "StoredVersionFacts", "assess_storage", "let_go_of"]

_DAY = 86_400.0
_GROWTH_DAYS = 7
_FORECAST_DAYS = 30
_LEAST_HISTORY_S = 3600.0
_AGES = (("under 1 day", _DAY), ("under 7 days", 7 * _DAY), ("under 30 days", 30 * _DAY))


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Bytes below the root."""

    stored: int
    """Of the versions that are kept, each shared byte once."""
    by_run: Mapping[str, int]
    by_rung: Mapping[str, int]
    by_age: Mapping[str, int]
    saved_by_sharing: int
    orphans: int | None
    """Bytes of shards that no kept version refers to, until a sweep takes them: of attempts that died before their
    commit, of versions that were given up, of deleted runs; None: not looked for."""
    retention_would_free: int | None
    """None: no retention was named."""
    growth_per_day: float | None
    """Bytes a day, net of what retention let go, over the last seven days or since the first commit; 0 for a store that
    shrinks; None in the first hour."""
    in_30_days: int | None
    """Bytes stored then, if it goes on like this; None while growth is not known."""
    budget: int | None
    days_left: float | None
    """Until the budget is spent at this growth; None without a budget or without growth."""

    @property
    def shared(self) -> float:
        """Share of the versions' bytes that did not have to be stored, because an earlier version has them."""
        whole = self.stored + self.saved_by_sharing
        return self.saved_by_sharing / whole if whole else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "stored": self.stored,
            "by_run": dict(self.by_run),
            "by_rung": dict(self.by_rung),
            "by_age": dict(self.by_age),
            "saved_by_sharing": self.saved_by_sharing,
            "orphans": self.orphans,
            "retention_would_free": self.retention_would_free,
            "shared": round(self.shared, 4),
            "growth_per_day": None if self.growth_per_day is None else round(self.growth_per_day),
            "in_30_days": self.in_30_days,
            "budget": self.budget,
            "days_left": None if self.days_left is None else round(self.days_left, 1),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVersionFacts:
    """One kept version, for the accounts."""

    run: str
    rung: str
    bytes: int
    bytes_new: int
    at: str
    stays: bool = True
    """False: it was retired, and its bytes go when the grace is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LetGoFacts:
    """One version that retention gave up, whatever is left of its bytes; for the growth."""

    bytes_new: int
    at: str
    until: str
    """When it was retired, or a moment soon before."""


def let_go_of(state: RunState, *, share: float) -> Iterator[LetGoFacts]:
    """The versions of a run that are no longer live.

    Args:
        state: the run's log.
        share: of a version's bytes that were new with it, as the run's kept versions show.
    """
    # The log's state holds no time of a Retire, but its slot, and the times of the commits around it.
    commits = sorted((version.slot, version.at) for version in state.versions.values())
    slots = [slot for slot, _ in commits]
    for version in state.versions.values():
        if version.status != "live":
            before = bisect_left(slots, version.retired_slot or version.slot) - 1
            until = max(version.at, commits[before][1]) if before >= 0 else version.at
            yield LetGoFacts(bytes_new=round(share * version.bytes), at=version.at, until=until)


def assess_storage(
    versions: Sequence[StoredVersionFacts],
    now: datetime,
    *,
    let_go: Sequence[LetGoFacts] = (),
    budget: int | None = None,
    orphans: int | None = None,
    retention_would_free: int | None = None,
) -> Storage:
    """The accounts over all kept versions, and those let go of the same runs."""
    by_run: dict[str, int] = {}
    by_rung: dict[str, int] = {}
    by_age: dict[str, int] = {}
    recent = 0
    for version in versions:
        age = _since(version.at, now) or 0.0
        label = next((name for name, limit in _AGES if age < limit), "older")
        for account, key in ((by_run, version.run), (by_rung, version.rung), (by_age, label)):
            account[key] = account.get(key, 0) + version.bytes_new
        recent += version.bytes_new if version.stays and age < _GROWTH_DAYS * _DAY else 0
    stored = sum(version.bytes_new for version in versions)
    gone = sum(version.bytes_new for version in let_go if _went_lately(version, now))
    commits = [*(version.at for version in versions), *(version.at for version in let_go)]
    growth = _growth(max(0, recent - gone), [_since(at, now) for at in commits])
    left = max(0.0, (budget - stored) / growth) if budget is not None and growth else None
    return Storage(
        stored=stored,
        by_run=by_run,
        by_rung=by_rung,
        by_age=by_age,
        saved_by_sharing=sum(version.bytes - version.bytes_new for version in versions),
        orphans=orphans,
        retention_would_free=retention_would_free,
        growth_per_day=growth,
        in_30_days=None if growth is None else round(stored + _FORECAST_DAYS * growth),
        budget=budget,
        days_left=left,
    )


def _went_lately(version: LetGoFacts, now: datetime) -> bool:
    """It was there when the days of the growth began, and is given up since."""
    came, went = _since(version.at, now), _since(version.until, now)
    return came is not None and went is not None and went < _GROWTH_DAYS * _DAY <= came


def _growth(added: int, ages: Sequence[float | None]) -> float | None:
    """Bytes a day. A store of an hour does not show what a day brings, and one of a day must not be spread over seven."""
    oldest = max((age for age in ages if age is not None), default=0.0)
    if oldest < _LEAST_HISTORY_S:
        return None
    return added / min(oldest, _GROWTH_DAYS * _DAY) * _DAY


def _since(text: str, now: datetime) -> float | None:
    try:
        at = datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
    return max(0.0, now.timestamp() - at)
