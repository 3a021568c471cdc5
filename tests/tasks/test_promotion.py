"""The promotion's tasks as plain functions, with Prefect's artifact, log and event stubbed."""

from __future__ import annotations

import logging

import pytest

from ray_workers.config import PromotionGate
from ray_workers.store import keys
from ray_workers.store.attempts import read_run
from ray_workers.store.errors import RuleRefusedError
from ray_workers.store.tags import tag_history
from tasks import promotion
from tasks.promotion import Approval, move_to, pass_gate
from tests.support.factories import MadeUpRun, folder_store

ACCURACY = {1: 0.5, 2: 0.9, 3: 0.7}
GATE = PromotionGate(metric="accuracy", mode="max", drill=False)


@pytest.fixture
def run(tmp_path):
    """Three sound versions that know their accuracy and no loss."""
    made = MadeUpRun(store=folder_store(tmp_path))
    made.start()
    for number, accuracy in ACCURACY.items():
        made.commit(10 * number, metrics={"accuracy": accuracy})
    made.judge(*ACCURACY)
    return made


@pytest.fixture
def events(monkeypatch):
    told = []
    monkeypatch.setattr(promotion, "create_markdown_artifact", lambda *_, **__: None)
    monkeypatch.setattr(promotion, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(promotion, "emit_event", lambda name, **said: told.append((name, said)))
    return told


def gated(run, tmp_path, version="digits@best", gate=GATE):
    assert run.store.url
    return pass_gate.fn(version, "production", str(tmp_path), gate)


def tags(run):
    return read_run(run.store, "digits").tags


def test_the_best_is_the_best_by_the_gates_own_metric(run, tmp_path, events):
    found = gated(run, tmp_path)
    assert (found.stored.version.number, found.result.passed) == (2, True)
    move_to.fn(found, Approval(approve=True, who="ada", comment="better"))
    (move,) = tag_history(run.store, "digits")
    assert (move.version, move.by["approved_by"]) == (2, "ada")
    assert [said["payload"]["version"] for _, said in events] == [2]


def test_a_version_that_is_quarantined_while_a_person_thinks_is_not_promoted(run, tmp_path, events):
    found = gated(run, tmp_path)
    run.judge(2, check="bytes", reason="rot")
    with pytest.raises(RuleRefusedError, match="quarantined: rot; sound is required"):
        move_to.fn(found, Approval(approve=True))
    assert (tags(run), events) == ({}, [])


def test_a_version_that_has_the_tag_is_not_promoted_again(run, tmp_path, events):
    run.tag("production", 2)
    found = gated(run, tmp_path)
    assert (found.in_place, found.result.passed) == (True, True)
    move_to.fn(found, None)
    assert (len(tag_history(run.store, "digits")), events) == (1, [])
    assert not gated(run, tmp_path, "digits@3").in_place


def test_a_holder_whose_commit_was_lost_is_nothing_to_compare_with(run, tmp_path, events):
    run.tag("production", 2)
    key = tmp_path / keys.log_key("digits", run.version(2).slot)
    key.chmod(0o644)
    key.write_bytes(b"rot")
    found = gated(run, tmp_path, "digits@1")
    assert found.result.passed
    move_to.fn(found, None)
    assert tags(run) == {"production": 1}
    assert [said["payload"]["before"] for _, said in events] == [2]
