"""Who a training attempt says that it is, and whom it tells Prefect to be gone."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from ray_workers.config import Retention, Saving, Scaling, Validation
from ray_workers.resume import ResumeSpec
from ray_workers.store.attempts import create_run, start_attempt, this_process
from ray_workers.store.memory import MemoryStore
from ray_workers.store.opening import StorageTarget
from tasks import attempt
from tasks.attempt import TrainRequest
from tasks.run_identity import RunIdentity


def request(tmp_path: Path, address: str | None) -> TrainRequest:
    return TrainRequest(
        identity=RunIdentity(flow_run_id="f-1", name="brave-owl", run_count=1),
        entrypoint="m:f",
        config={},
        run="digits",
        target=StorageTarget(str(tmp_path)),
        scaling=Scaling(ray_address=address),
        saving=Saving(),
        validation=Validation(),
        retention=Retention(),
        resume=ResumeSpec.parse("auto"),
        takeover=False,
        code_dir=tmp_path,
    )


@pytest.mark.parametrize("address", [None, "ray.example:6379"])
def test_a_training_in_the_flows_process_is_that_process(
    tmp_path: Path, address: str | None
) -> None:
    made = request(tmp_path, address)
    assert made.by == this_process()
    assert made.job_wish is None


def test_a_training_as_a_ray_job_says_so_because_the_job_outlives_the_process(
    tmp_path: Path,
) -> None:
    made = request(tmp_path, "http://ray.example:8265")
    assert made.by == {**this_process(), "ray_job": True}
    assert made.job_wish is not None
    assert made.job_wish.by == made.by


def test_where_a_person_said_that_it_begins_stands_in_its_records(tmp_path: Path) -> None:
    for text in ("never", "digits@3", "other@best"):
        asked = replace(request(tmp_path, None), resume=ResumeSpec.parse(text))
        assert asked.by == {**this_process(), "resume": text}


@pytest.mark.parametrize("beat", ["a sign of life every 180 seconds", None])
def test_a_heart_that_is_too_slow_for_the_automations_is_told_at_the_start(
    monkeypatch, caplog, tmp_path, beat
):
    for name in ("put_back_retries", "load_entrypoint"):
        monkeypatch.setattr(attempt, name, lambda _: None)
    monkeypatch.setattr(attempt, "announce_schedule", lambda *_: None)
    monkeypatch.setattr(attempt, "with_deployed", dict)
    monkeypatch.setattr(attempt, "current_identity", lambda: request(tmp_path, None).identity)
    monkeypatch.setattr(attempt, "get_run_logger", lambda: logging.getLogger("flow"))
    monkeypatch.setattr(attempt, "slow_heart", lambda: beat)
    attempt.describe_request(
        {
            "entrypoint": "m:f", "config": {}, "run": "digits", "storage": str(tmp_path), "scaling": Scaling(),
            "saving": Saving(), "validation": Validation(), "retention": Retention(), "resume": "auto",
            "takeover": False, "code_dir": str(tmp_path),
        }
    )  # fmt: skip
    assert ("PREFECT_FLOWS_HEARTBEAT_FREQUENCY=30" in caplog.text) == (beat is not None)
    assert (beat or "") in caplog.text


# --- those whose process is gone -------------------------------------------------------------------------------------

GONE = {**this_process(), "pid": 2**22 + 1}


@pytest.mark.parametrize(
    ("tries", "marked"),
    [
        ([GONE], ["x"]),
        ([GONE, this_process()], []),  # killed, and at work again
        ([GONE, GONE], ["x"]),
        ([this_process()], []),
        ([{**GONE, "host": "another-host"}], []),
    ],
)
def test_only_a_flow_run_whose_newest_try_is_gone_is_told_as_crashed(monkeypatch, tries, marked):
    told: list[str] = []
    monkeypatch.setattr(attempt, "mark_crashed", lambda flow_run_id, _: told.append(flow_run_id))
    store = MemoryStore()
    for run_count, by in enumerate(tries, 1):
        start_attempt(create_run(store, "run", by=by), flow_run_id="x", run_count=run_count)
    log = create_run(store, "run", by=this_process())
    fence = start_attempt(log, flow_run_id="y", run_count=1)
    attempt._bury_dead(log.state, fence)
    assert told == marked
