"""The one place that reads the wall clock. Times are information for people: no rule of safety uses one."""

from __future__ import annotations

import time
from datetime import UTC, datetime

__all__ = ["epoch_seconds", "utc_now"]


def utc_now() -> str:
    """ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")  # noqa: TID251 - this is the clock


def epoch_seconds() -> float:
    """Seconds since the epoch."""
    return time.time()  # noqa: TID251 - this is the clock
