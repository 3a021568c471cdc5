"""How far one version may be trusted: ordered checks, each a verdict with its evidence and cost (FORMAT.md §7).

*verified*: every byte is read back and every digest holds. *sound*: the shards hold what the manifest says; every
floating-point value is finite, in parameters and in optimizer state; the parameters did not jump against the parent, nor
drift as never before in this run; the loss probe tells the same loss as when it was saved; the user's own checks pass. It
reads the store and nothing else, so it runs anywhere, outside the training processes.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from typing_extensions import Buffer

from ray_workers.environment import changes
from ray_workers.loss_probe import PROBE_METRIC, measure_stored
from ray_workers.measuring import Measured, measure_shards
from ray_workers.policies.soundness import Drift, SoundnessPolicy, Spacing
from ray_workers.store.bodies import Verdict, VersionName
from ray_workers.store.errors import (
    DamageError,
    InvalidInputError,
    MissingError,
    NewerFormatError,
    RetryableError,
    VersionGoneError,
)
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import Manifest
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_state import RunState, VersionState
from ray_workers.store.shards import read_shard
from ray_workers.store.sharing import SharedBytes
from ray_workers.store.versions import UNREADABLE, CheckResult, load_manifest, verify_bytes
from ray_workers.user_checks import StoredVersion, run_check

__all__ = [
    "CheckResult",
    "SoundnessPolicy",
    "drift_of",
    "record_verdicts",
    "validate",
    "verdict_on",
]

_HISTORY = 30
_AGAIN = ("sound", "restorable")
"""Passed once more they say something new: other bounds, another recovery time."""
_LOSS_HANGS_ON = ("device", "torch")


def validate(
    store: ObjectStore,
    version: VersionState,
    *,
    state: RunState,
    policy: SoundnessPolicy,
) -> list[CheckResult]:
    """Run the checks in order; the first that fails is the last in the list.

    Args:
        store: where the run lives.
        version: what to check.
        state: the run, whose other versions it is compared with.
        policy: the bounds of *sound*.

    Raises:
        RetryableError: the store cannot be reached: this says nothing about the version.
    """
    verified, manifest = verify_bytes(store, state.run, version)
    if manifest is None:
        return [verified]
    return [verified, _Soundness(store, version, manifest, state, policy).judge()]


def drift_of(state: RunState, version: VersionState) -> Drift:
    """What the versions that training came through before `version` were like."""
    before = [
        v
        for v in state.newest_first()
        if v.number < version.number and v.quarantine is None and not v.abandoned
    ]
    trusted = [v.norm for v in before if v.candidate and v.norm is not None]
    measured = [(v, v.norm) for v in before if v.norm is not None][:_HISTORY]
    return Drift(
        parent_norm=trusted[0] if trusted else None,
        norms=tuple([norm for _, norm in measured]),
        updates=tuple([v.update_rate for v in before if v.update_rate is not None][:_HISTORY]),
        spacing=_spacing(state, version, before, [v for v, _ in measured]),
    )


def _spacing(
    state: RunState,
    version: VersionState,
    before: Sequence[VersionState],
    measured: Sequence[VersionState],
) -> Spacing | None:
    """How far the versions lie apart; None when none before `version` has one before it."""
    saves = [gap for gap in _gaps(before[: _HISTORY + 1]) if gap > 0]
    if not saves or not measured:
        return None
    spoilt = [
        version.step - v.step
        for v in state.newest_first()
        if measured[0].number < v.number < version.number
        and v.fence == version.fence
        and v.quarantine is not None
        and not v.bad_bytes
    ]
    return Spacing(
        usual=statistics.median(saves),
        gaps=_gaps([version, *measured]),
        unspoilt=spoilt[0] if spoilt else None,
    )


def _gaps(newest_first: Sequence[VersionState]) -> tuple[int, ...]:
    return tuple(newer.step - older.step for newer, older in pairwise(newest_first))


@dataclass(slots=True)
class _Soundness:
    """One version's way through the checks of *sound*; evidence gathers on the way."""

    store: ObjectStore
    version: VersionState
    manifest: Manifest
    state: RunState
    policy: SoundnessPolicy
    evidence: dict[str, Any] = field(default_factory=dict)

    def judge(self) -> CheckResult:
        started = time.monotonic()
        steps: tuple[Callable[[], str | None], ...] = (self._values, self._probe, self._own_checks)
        check, reason = "sound", None
        try:
            for step in steps:
                reason = step()
                if reason is not None:
                    break
        except RetryableError:
            raise
        except (DamageError, MissingError) as error:
            check, reason = "bytes", error.message
        except Exception as error:  # noqa: BLE001 - the user's code: what it raises is no finding about the version
            check, reason = UNREADABLE, f"it could not be judged: {type(error).__name__}: {error}"
        self.evidence["seconds"] = round(time.monotonic() - started, 3)
        return CheckResult(
            check=check, passed=reason is None, reason=reason, evidence=dict(self.evidence)
        )

    def _values(self) -> str | None:
        parent, steps = self._parent()
        found = measure_shards(self.store, self.manifest, parent)
        self.evidence |= {"bytes": found.bytes_read, "tensors": found.tensors}
        return found.problem or self._drift(found, steps)

    def _parent(self) -> tuple[Manifest | None, int]:
        """The manifest of the version that training came from, and the steps since; None when it cannot be had."""
        ref = self.manifest.parent
        if ref is None or ref.run is not None:
            return None, 0
        known = self.state.find(VersionName(number=ref.number, manifest=ref.digest))
        if known is None or not known.candidate:
            return None, 0
        try:
            return load_manifest(self.store, self.state.run, known), self.version.step - known.step
        except (DamageError, MissingError, NewerFormatError):
            return None, 0

    def _drift(self, found: Measured, steps: int) -> str | None:
        policy, drift = self.policy, drift_of(self.state, self.version)
        rate = judged = None
        if found.update is not None and steps >= 1:
            rate, spacing = found.update / steps, drift.spacing
            judged = rate if spacing is None else found.update / spacing.update_steps(steps)
        scores = policy.norm_score(found.norm, drift), policy.update_score(judged, drift)
        told = {
            "parameter_norm": found.norm,
            "update_norm": found.update,
            "update_rate": rate,
            "norm_z": scores[0],
            "update_z": scores[1],
        }
        self.evidence |= {name: value for name, value in told.items() if value is not None}
        return policy.jump(found.norm, drift.parent_norm) or policy.drifted(*scores)

    def _probe(self) -> str | None:
        saved = self.manifest.metrics.get(PROBE_METRIC)
        if self.policy.probe is None or saved is None or self.manifest.payload != "state":
            return None
        started = time.monotonic()
        found = measure_stored(self.manifest, self._read, self.policy.probe)
        difference = abs(found - saved) / max(abs(saved), 1e-12)
        self.evidence |= {
            "probe_saved": _spelled(saved),
            "probe_read": _spelled(found),
            "probe_seconds": round(time.monotonic() - started, 3),
        }
        if not math.isfinite(saved):
            return f"the loss of its probe was {saved} when it was saved"
        if difference <= self.policy.probe_tolerance:
            return None
        if elsewhere := _elsewhere(self.manifest):
            self.evidence |= {"probe_elsewhere": elsewhere}
            return None
        return (
            f"the loss of its probe was {saved:.9g} when it was saved and is {found:.9g} from the stored bytes: what is "
            f"stored is not what was trained (relative difference {difference:.3g}, {self.policy.probe_tolerance:g} is "
            "allowed)"
        )

    def _own_checks(self) -> str | None:
        view = StoredVersion(
            run=self.state.run,
            number=self.version.number,
            manifest=self.manifest,
            read_shard=self._read,
        )
        own = {entry.key for entry in self.manifest.shards}
        seconds: dict[str, float] = {}
        self.evidence |= {"checks": seconds} if self.policy.checks else {}
        for reference in self.policy.checks:
            started = time.monotonic()
            try:
                reason = run_check(reference, view)
            except (DamageError, MissingError) as error:
                if error.details.get("key") in own:
                    raise
                # Of another version, or none at all: the check found nothing out about this one.
                raise InvalidInputError(f"{reference}: {error.message}") from error
            seconds[reference] = round(time.monotonic() - started, 3)
            if reason is not None:
                return f"{reference}: {reason}"
        return None

    def _read(self, entry: Any) -> Buffer:
        return read_shard(self.store, entry)


def _elsewhere(manifest: Manifest) -> str | None:
    """What a loss hangs on far beyond its last digits and that is otherwise here than where it was measured."""
    differs = changes(manifest.environment)
    told = [f"{name} {' → '.join(differs[name])}" for name in _LOSS_HANGS_ON if name in differs]
    return ", ".join(told) or None


def _spelled(value: float) -> float | str:
    """JSON has no NaN."""
    return value if math.isfinite(value) else str(value)


def record_verdicts(
    log: RunLog, version: VersionState, results: list[CheckResult], *, checker: str
) -> None:
    """Append each result as a Verdict, unless the version was condemned meanwhile.

    Raises:
        VersionGoneError: it was condemned: a missing object is no damage then, and no verdict is written.
    """
    log.refresh()
    for result in results:
        present = log.state.find(version.name)
        if present is None or not present.readable:
            raise VersionGoneError(
                f"Version {version.number} of run {log.state.run!r} is "
                f"{'unknown' if present is None else present.status}; choose another.",
                number=version.number,
            )
        repeated = result.passed and result.check in present.passed and result.check not in _AGAIN
        if repeated or result.check == UNREADABLE:
            continue
        log.append(verdict_on(log.store, version, result, checker=checker))


def verdict_on(
    store: ObjectStore, version: VersionState, result: CheckResult, *, checker: str
) -> Callable[[RunState], Verdict]:
    """What to append for a check of `version`: bad bytes are the matter of every version that shares them."""
    bad = None
    if result.check == "bytes" and not result.passed:
        bad = SharedBytes(store, version, result)

    def decide(state: RunState) -> Verdict:
        return Verdict(
            versions=(version.name,) if bad is None else bad.names(state),
            check=result.check,
            passed=result.passed,
            reason=result.reason and result.reason[:2000],
            evidence=dict(result.evidence),
            checker=checker,
        )

    return decide
