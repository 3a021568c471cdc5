"""A job's log, as the follower reads it from Ray's client: what is left when the job and its log have ended."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from ray_workers.following import Followed, Follower
from ray_workers.job_lines import LineWriter
from ray_workers.messages import PawlEvent
from ray_workers.ray_jobs import RayJobs, _TailedLog
from ray_workers.store.errors import TrainingFailedError

EVENT = PawlEvent(kind="committed", message="Version 1", at="now")


class Client:
    """Ray's client for one job that has ended, with the log that it left."""

    def __init__(self, status: str) -> None:
        self._info = SimpleNamespace(status=SimpleNamespace(value=status), metadata={})
        self._log = io.StringIO()
        LineWriter(self._log).event(EVENT)

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        yield self._log.getvalue()

    def get_job_info(self, _: str) -> SimpleNamespace:
        return self._info


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> RayJobs:
    monkeypatch.setattr("ray_workers.ray_jobs._PatientClient", lambda _: Client("FAILED"))
    return RayJobs("http://head:8265")


def test_a_log_that_has_ended_can_be_left() -> None:
    with _TailedLog(Client("FAILED"), "job") as log:
        assert [line.kind for line in log.take(30)] == ["event"]
        log._thread.join(30)
        assert not log._thread.is_alive()
        assert log.take(0) == []


def test_of_a_driver_that_was_killed_one_reads_that_it_ended_without_a_last_word(jobs) -> None:
    told: list[PawlEvent] = []
    job = Followed(
        name="job",
        keys=None,
        on_event=told.append,
        still_ours=lambda: None,
        ask_every_s=0,
        last_lines_s=0.5,
    )
    with pytest.raises(TrainingFailedError, match="without a last word"):
        Follower(jobs, job).follow()
    assert told == [EVENT]
