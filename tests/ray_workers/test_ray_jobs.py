"""A job's log, as the follower reads it from Ray's client: what is left when the job and its log have ended."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from ray.exceptions import AuthenticationError

from ray_workers import ray_jobs
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
        self.lines = LineWriter(self._log)
        self.lines.event(EVENT)

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


def test_a_refusal_for_a_while_does_not_end_the_reading_of_the_log(monkeypatch) -> None:
    class Refusing(Client):
        refusals = 1

        def get_job_info(self, name: str) -> SimpleNamespace:
            if self.refusals:
                self.refusals -= 1
                self.lines.event(EVENT)
                raise AuthenticationError("401")
            return super().get_job_info(name)

    monkeypatch.setattr(ray_jobs, "_AGAIN_S", 0)
    with _TailedLog(Refusing("FAILED"), "job") as log:
        log._thread.join(30)
        assert [line.kind for line in log.take(0)] == ["event", "event"]


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
