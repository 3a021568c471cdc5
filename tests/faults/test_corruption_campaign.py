"""A sample of `make campaign`: every kind of object damaged in every way, at the lowest and the highest rung."""

from __future__ import annotations

import random

import pytest

from ray_workers import resume
from ray_workers.store import audit
from ray_workers.store.errors import RefusedError
from ray_workers.store.versions import CheckResult
from tests.support.corruption import DAMAGES, KINDS, NEWEST, Base, Case, cases, make_bases, play
from tests.support.corruption_campaign import BEGIN, END, campaign, table, write_into

pytestmark = pytest.mark.fault
EVERY = 23


@pytest.fixture(scope="module")
def bases() -> list[Base]:
    return make_bases()


def chosen(bases: list[Base], rung: str, *, cached: bool) -> Base:
    (found,) = [base for base in bases if (base.rung, base.cached) == (rung, cached)]
    return found


@pytest.mark.parametrize(("rung", "cached"), [("committed", False), ("restorable", True)])
def test_what_is_damaged_is_named_never_resumed_and_the_right_version_chosen(bases, rung, cached):
    every = list(cases(chosen(bases, rung, cached=cached), random.Random(3)))  # noqa: S311
    sample = every[::EVERY]
    assert {case.kind for case in sample} >= set(KINDS if cached else KINDS[:3])
    assert {case.damage for case in every} == {*DAMAGES, "exchanged"}
    bad = [str(finding.case) for case in sample if not (finding := play(case)).good]
    assert bad == []


def damaged(base: Base, kind: str, version: int, damage: str) -> Case:
    return next(
        case
        for case in cases(base, random.Random(3))  # noqa: S311
        if case.kind == kind
        and case.damage == damage
        and {base.owners.get(key) for key in case.damaged} == {version}
    )


def test_a_resume_that_checks_nothing_is_noticed(bases, monkeypatch):
    case = damaged(chosen(bases, "sound", cached=False), "shards", NEWEST, "last byte flipped")
    assert play(case).good
    yes = CheckResult(check="verified", passed=True)
    monkeypatch.setattr(resume, "verify_bytes", lambda *_: (yes, None))
    finding = play(case)
    assert (finding.named, finding.clean, finding.right) == (True, False, False)


def test_an_audit_that_looks_at_manifests_alone_is_noticed(bases, monkeypatch):
    case = damaged(chosen(bases, "sound", cached=False), "shards", 2, "cut in half")
    assert play(case).good
    monkeypatch.setattr(audit, "read_shard", lambda *_, **__: b"")
    finding = play(case)
    assert (finding.named, finding.clean, finding.right) == (False, True, True)
    assert not finding.good


def test_a_resume_that_always_begins_anew_is_noticed(bases, monkeypatch):
    case = damaged(chosen(bases, "sound", cached=False), "manifests", 3, "deleted")
    monkeypatch.setattr(resume, "_next_candidate", lambda *_: None)
    with pytest.raises(RefusedError, match="does not begin anew"):
        play(case)
    monkeypatch.setattr(resume, "_refuse_to_lose", lambda *_: None)
    assert not play(case).right


def test_the_table_counts_what_was_played():
    text = table(campaign([], 4), 4)
    assert text.count("| 0 | 0 of 0 | 0 | 0 of 0 |") == 17
    page = write_into(f"a\n{BEGIN}\nformer\n{END}\nb", text)
    assert page.startswith("a\n")
    assert page.endswith("\nb")
    assert "former" not in page
    with pytest.raises(ValueError, match="markers"):
        write_into("none", text)
