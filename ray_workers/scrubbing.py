"""Reading stored versions again, slowly, the one that was looked at longest ago first: what rotted is found before it is needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ray_workers.store.bodies import Verdict
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.log import RunLog
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_state import RunState, VersionState
from ray_workers.store.versions import UNREADABLE, CheckResult, verify_bytes
from ray_workers.validation import verdict_on

__all__ = ["Pace", "Scrubbed", "oldest_first", "scrub_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrubbed:
    run: str
    version: int
    bytes: int
    passed: bool
    reason: str | None
    """Why not; also set when this program cannot read the version, which is no verdict."""


class Pace:
    """Holds the mean rate at a limit: a pause after each version, as long as its bytes ask for.

    Args:
        bytes_per_s: the limit.
        sleep: makes a pause, in seconds.
        clock: seconds, from anywhere.
    """

    def __init__(
        self,
        bytes_per_s: float,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not bytes_per_s > 0:
            raise InvalidInputError("The rate of a scrub must be above 0 bytes per second.")
        self._bytes_per_s = bytes_per_s
        self._sleep = sleep
        self._clock = clock
        self._began = clock()
        self._bytes = 0

    def read(self, size: int) -> None:
        """After reading so many bytes."""
        self._bytes += size
        left = self._bytes / self._bytes_per_s - (self._clock() - self._began)
        if left > 0:
            self._sleep(left)


def oldest_first(state: RunState) -> list[VersionState]:
    """Versions whose bytes are promised, by the log slot of their last look; never looked at comes first."""
    kept = [version for version in state.versions.values() if version.readable]
    return sorted(kept, key=lambda v: (v.verified_slot or 0, v.number))


def scrub_run(
    store: ObjectStore, log: RunLog, pace: Pace, *, checker: str = "scrub",
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Scrubbed, ...]:  # fmt: skip
    """Read every kept version of a run, and record each verdict; one whose bytes are bad is quarantined.

    Raises:
        StoreUnavailableError, StoreRefusedError: the store does not let us; verdicts so far stay.
    """
    found = []
    for version in oldest_first(log.refresh()):
        tell(f"reading version {version.number} of {log.state.run} ({version.bytes} bytes)")
        result, _ = verify_bytes(store, log.state.run, version)
        pace.read(version.bytes)
        if result.check != UNREADABLE and not _record(log, version, result, checker):
            continue  # given up meanwhile: what is missing is no damage
        found.append(
            Scrubbed(
                run=log.state.run,
                version=version.number,
                bytes=version.bytes,
                passed=result.passed,
                reason=result.reason,
            )
        )
    return tuple(found)


def _record(log: RunLog, version: VersionState, result: CheckResult, checker: str) -> bool:
    judge = verdict_on(log.store, version, result, checker=checker)

    def decide(state: RunState) -> Verdict | None:
        present = state.find(version.name)
        if present is None or not present.readable:
            return None
        return judge(state)

    log.refresh()  # whoever finds something missing folds again before it judges
    return log.append(decide) is not None
