"""Lengths of time and bands of thinning as a person writes them: `36h`, `1h/1d,1d`."""

from __future__ import annotations

import re

from ray_workers.config import Retention
from ray_workers.policies.retention import RetentionPolicy, Thinning
from ray_workers.store.errors import InvalidInputError

__all__ = ["parse_duration", "parse_thinning", "policy_of"]

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhdw]?)")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def parse_duration(text: str) -> float:
    """Seconds. A number alone is seconds; `m`, `h`, `d` and `w` are minutes, hours, days and weeks."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InvalidInputError(
            f"{text[:80]!r} is no length of time: write 90s, 15m, 36h, 7d or 2w."
        )
    return float(match[1]) * _UNITS[match[2]]


def parse_thinning(text: str) -> tuple[Thinning, ...]:
    """`EVERY/UNTIL,…,EVERY`: one version for each EVERY, up to that age; the last band may leave its end open.

    `1h/1d,1d` keeps one an hour for a day and one a day after.
    """
    bands = []
    for item in text.split(","):
        every, slash, until = item.partition("/")
        bands.append(
            Thinning(
                every_s=parse_duration(every), until_s=parse_duration(until) if slash else None
            )
        )
    ends = [band.until_s for band in bands]
    closed = [end for end in ends if end is not None]
    if None in ends[:-1] or closed != sorted(set(closed)):
        raise InvalidInputError(
            f"The bands of {text[:80]!r} must end later and later, and only the last one may have no end: write "
            "1h/1d,1d for one an hour for a day and one a day after."
        )
    return tuple(bands)


def policy_of(retention: Retention) -> RetentionPolicy:
    """What a user asked for, as the policy that decides. Raises `InvalidInputError` for a bad `thin`."""
    values = retention.model_dump()
    thin = values.pop("thin")
    return RetentionPolicy(**values, thin=parse_thinning(thin) if thin else ())
