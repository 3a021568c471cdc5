"""No tier goes missing in silence: a pytest plugin that fails a session whose required tiers did not run and pass.

A tier is the kind of machinery that a test needs: `s3`, `ray`, `prefect` (its markers), or `unit` (none of them).
`PAWL_REQUIRE_TIERS=unit,s3` requires two. Of a required tier at least one test passes and, beyond `unit`, none is
skipped: a test that was skipped because its server is absent has shown nothing.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container

import pytest

__all__ = ["SERVER_TIERS", "TIER_MISSING", "TierCheck", "required_tiers"]

SERVER_TIERS = ("s3", "ray", "prefect")
TIERS = ("unit", *SERVER_TIERS)
TIER_MISSING = 8
"""Exit status of a session whose tests ran while a required tier did not: unlike a failed test, no second look mends it."""

_RAN_TO_THE_END = (
    pytest.ExitCode.OK,
    pytest.ExitCode.TESTS_FAILED,
    pytest.ExitCode.NO_TESTS_COLLECTED,
)


def required_tiers() -> frozenset[str]:
    """The tiers named in `PAWL_REQUIRE_TIERS`; raises `pytest.UsageError` on a name that is none."""
    named = os.environ.get("PAWL_REQUIRE_TIERS", "")
    required = frozenset(part.strip() for part in named.split(",") if part.strip())
    if unknown := sorted(required.difference(TIERS)):
        raise pytest.UsageError(f"PAWL_REQUIRE_TIERS: unknown {unknown}; known are {TIERS}")
    return required


class TierCheck:
    """Runs cheap tiers first, counts outcomes by tier, and adds a failure for each tier that is not covered."""

    def __init__(self, required: frozenset[str]) -> None:
        self._required = required
        self._passed: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Order the tests, so that a slip in a pure function shows before any server is started."""
        items.sort(key=lambda item: max(TIERS.index(tier) for tier in _tiers(item.keywords)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test as passed when its body passed, as skipped whenever it was skipped."""
        tiers = _tiers(report.keywords)
        if report.skipped:
            self._skipped.update(tiers)
        elif report.when == "call" and report.passed:
            self._passed.update(tiers)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Add one failed report per gap before pytest writes its summary, so that its last line tells."""
        if session.config.option.collectonly or exitstatus not in _RAN_TO_THE_END:
            return  # an interrupted session fails already, and its gaps would hide why
        for tier in TIERS:
            if tier in self._required and (gap := self._gap(tier)):
                session.config.hook.pytest_runtest_logreport(report=_failure(tier, gap))
                session.exitstatus = TIER_MISSING

    def _gap(self, tier: str) -> str | None:
        if not self._passed[tier]:
            return f"Tier {tier!r} is required, and no test of it passed."
        if tier in SERVER_TIERS and self._skipped[tier]:
            return (
                f"Tier {tier!r} is required, and {self._skipped[tier]} of its tests were skipped."
            )
        return None


def _tiers(keywords: Container[str]) -> frozenset[str]:
    """From the names of a test's markers, which a report brings along from another process too."""
    needed = frozenset(tier for tier in SERVER_TIERS if tier in keywords)
    return needed or frozenset({"unit"})


def _failure(tier: str, reason: str) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=f"tier::{tier}",
        location=("tier", None, tier),
        keywords={},
        outcome="failed",
        longrepr=reason,
        when="call",
    )
