import math

import pytest

from ray_workers.promotion import Candidate, PromotionRules, check_gate
from ray_workers.store.run_state import VersionState


def version(number=1, *, passed=("verified", "sound"), **fields):
    return VersionState(
        number=number, manifest="a" * 64, fence=2, slot=3, step=1, bytes=1, base=None, at="", passed=passed, **fields
    )  # fmt: skip


def candidate(loss=0.5, **fields):
    return Candidate(version=version(**fields), metrics={"loss": loss, "acc": 1 - loss})


@pytest.mark.parametrize(
    ("made", "passed"),
    [
        (candidate(), True),
        (candidate(passed=("verified",)), False),
        (candidate(quarantine="NaN"), False),
        (candidate(status="condemned"), False),
    ],
)
def test_the_rung_is_required(made, passed):
    assert check_gate(made, None, PromotionRules()).passed is passed


@pytest.mark.parametrize(
    ("loss", "rules", "passed"),
    [
        (0.5, PromotionRules(), True),
        (0.51, PromotionRules(), False),
        (0.54, PromotionRules(allowed_regression=0.1), True),
        (0.56, PromotionRules(allowed_regression=0.1), False),
        (math.nan, PromotionRules(), False),
        (0.9, PromotionRules(metric=None), True),
        (0.4, PromotionRules(metric="acc", mode="max"), True),
        (0.6, PromotionRules(metric="acc", mode="max"), False),
        (0.5, PromotionRules(metric="unknown"), False),
    ],
)
def test_the_holder_must_not_be_better(loss, rules, passed):
    result = check_gate(candidate(loss), candidate(0.5, number=9), rules)
    assert result.passed is passed
    assert ("version 9" in result.reason) is (not passed)


@pytest.mark.parametrize(("threshold", "passed"), [(0.5, True), (0.49, False)])
def test_a_threshold_holds_without_a_holder(threshold, passed):
    result = check_gate(candidate(0.5), None, PromotionRules(threshold=threshold))
    assert result.passed is passed
    assert [check.name for check in result.checks] == ["rung", "threshold"]


def test_a_holder_without_the_metric_stands_in_nobodys_way():
    holder = Candidate(version=version(9), metrics={})
    assert check_gate(candidate(), holder, PromotionRules()).passed


def test_the_reason_names_all_that_failed():
    result = check_gate(candidate(passed=()), None, PromotionRules(threshold=0.1))
    assert result.reason == (
        "version 1 is committed, sound is required; loss is 0.5, at most 0.1 is required"
    )
    assert check_gate(candidate(), None, PromotionRules()).reason == "all 1 checks hold"
