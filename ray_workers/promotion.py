"""The gate before a tag that others rely on: facts about candidate and holder in, every check with its outcome out. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ray_workers.store.run_state import VersionState, rung_at_least

__all__ = ["Candidate", "GateCheck", "GateResult", "PromotionRules", "check_gate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionRules:
    """What a version must satisfy."""

    required: str = "sound"
    metric: str | None = "loss"
    """The metric by which candidate and holder are compared; None: they are not."""
    mode: str = "min"
    threshold: float | None = None
    """The metric must be at least as good as this."""
    allowed_regression: float = 0.0
    """By which share of the holder's value the candidate may be worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One version as the gate sees it."""

    version: VersionState
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCheck:
    name: str
    passed: bool
    told: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    checks: tuple[GateCheck, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """What failed, or that everything holds."""
        failed = [check.told for check in self.checks if not check.passed]
        return "; ".join(failed) if failed else f"all {len(self.checks)} checks hold"


def check_gate(candidate: Candidate, holder: Candidate | None, rules: PromotionRules) -> GateResult:
    """Hold the candidate against the rules and against the version that has the tag now."""
    return GateResult(checks=tuple(_checks(candidate, holder, rules)))


def _checks(
    candidate: Candidate, holder: Candidate | None, rules: PromotionRules
) -> Iterator[GateCheck]:
    version = candidate.version
    enough = version.readable and rung_at_least(version.rung, rules.required)
    why = f": {version.quarantine}" if version.quarantine else ""
    yield GateCheck(
        name="rung",
        passed=enough,
        told=f"version {version.number} is {version.rung}{why}, {rules.required} is required",
    )
    if rules.metric is None:
        return
    value = candidate.metrics.get(rules.metric, math.nan)
    if rules.threshold is not None:
        word = "at most" if rules.mode == "min" else "at least"
        yield GateCheck(
            name="threshold",
            passed=_no_worse(value, rules.threshold, rules.mode),
            told=f"{rules.metric} is {value:.6g}, {word} {rules.threshold:.6g} is required",
        )
    if holder is not None:
        yield _against_holder(value, holder, rules)


def _against_holder(value: float, holder: Candidate, rules: PromotionRules) -> GateCheck:
    best = holder.metrics.get(str(rules.metric), math.nan)
    slack = abs(best) * rules.allowed_regression
    bound = best + slack if rules.mode == "min" else best - slack
    # A holder without the metric says nothing; a candidate without it cannot be called as good.
    passed = not math.isnan(value) and (math.isnan(best) or _no_worse(value, bound, rules.mode))
    return GateCheck(
        name="holder",
        passed=passed,
        told=f"{rules.metric} is {value:.6g}, version {holder.version.number} has {best:.6g} "
        f"({rules.allowed_regression:.0%} worse is allowed)",
    )


def _no_worse(value: float, bound: float, mode: str) -> bool:
    return value <= bound if mode == "min" else value >= bound
