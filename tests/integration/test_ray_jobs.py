"""Training as a Ray job on a cluster that others started: it outlives its flow, and the next try of the flow finds it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_workers.store.credentials import S3Credentials
from ray_workers.store.opening import StorageTarget
from tests.integration.conftest import PrefectServer
from tests.integration.harness import StoredRun, wait_until
from tests.integration.ray_job_training import (
    ALL,
    MORE,
    SOME,
    JobTraining,
    kill,
)
from tests.support.ray_head import RayHead
from tests.support.s3_server import S3Server

pytestmark = [pytest.mark.ray, pytest.mark.prefect, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def ray_head() -> Iterator[RayHead]:
    with RayHead.running(cpus=2) as head:
        yield head


@pytest.fixture
def training(
    ray_head: RayHead,
    prefect_server: PrefectServer,
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[JobTraining]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    keys = S3Credentials(
        access_key_id=s3_server.access_key,
        secret_access_key=s3_server.secret_key,
        region=s3_server.region,
        endpoint_url=s3_server.endpoint,
    )
    target = StorageTarget(f"s3://{s3_server.new_bucket()}/pawl", keys)
    made = JobTraining(
        folder=tmp_path,
        head=ray_head,
        stored=StoredRun(target=target, run="run"),
        env={**prefect_server.env, **s3_server.environment(), "RAY_AUTH_MODE": "disabled"},
    )
    yield made
    made.end()


@pytest.mark.long
@pytest.mark.s3
@pytest.mark.fault
def test_a_killed_flow_leaves_the_job_training_and_the_next_one_follows_it(
    training: JobTraining, uninterrupted: list[str], s3_server: S3Server
) -> None:
    training.allow(SOME)
    first = training.start_gated()
    training.wait_for_versions(2)
    kill(first)
    seen = training.stored.committed()
    training.allow(MORE)
    training.wait_for_versions(seen + 1)  # nobody follows, and it goes on
    second = training.start_gated()
    wait_until(lambda: "trains already" in second.output, 400, "the second flow to find the job")
    training.allow(ALL)
    assert second.wait(600) == 0, second.output
    assert training.stored.final_digests() == uninterrupted
    kinds = training.kinds()
    assert (kinds.count("AttemptStarted"), kinds.count("AttemptAdopted")) == (1, 1)
    assert [a.outcome for a in training.stored.state.attempts.values()] == ["completed"]
    assert_secret_is_nowhere(training, s3_server.secret_key, first.output + second.output)


def assert_secret_is_nowhere(training: JobTraining, secret: str, output: str) -> None:
    """Not in what Ray shows of its jobs, in no log of the cluster, in no output of the flow."""
    jobs = training.jobs()._client.list_jobs()
    assert any((job.metadata or {}).get("pawl.letter") for job in jobs), "no letter was sent"
    shown = json.dumps([job.model_dump(mode="json") for job in jobs], default=str)
    logs = [p for p in (training.head.folder / "ray").glob("session_*/logs/**/*") if p.is_file()]
    texts = [shown, output, *(log.read_text(errors="replace") for log in logs)]
    assert any("Version 1 committed" in text for text in texts)
    encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
    for text in texts:
        assert secret not in text
        assert encoded not in text


@pytest.mark.slow
@pytest.mark.s3
def test_a_job_that_completed_meanwhile_is_taken_over(
    training: JobTraining, uninterrupted: list[str]
) -> None:
    training.allow(SOME)
    first = training.start_gated()
    training.wait_for_versions(2)
    kill(first)
    training.allow(ALL)
    training.wait_for_status(training.job(), "SUCCEEDED")
    second = training.start_gated()
    assert second.wait(600) == 0, second.output
    assert "is finished" in second.output
    assert training.stored.final_digests() == uninterrupted
    assert training.kinds().count("AttemptStarted") == 1


@pytest.mark.slow
@pytest.mark.s3
def test_a_job_that_failed_meanwhile_is_followed_by_a_new_attempt(
    training: JobTraining, uninterrupted: list[str]
) -> None:
    training.allow(SOME)
    first = training.start_gated()
    training.wait_for_versions(2)
    kill(first)
    job = training.job()
    wait_until(lambda: training.head.actors("RayTrainWorker"), 60, "a worker")[0].kill()
    training.wait_for_status(job, "FAILED")
    training.allow(ALL)
    second = training.start_gated()
    assert second.wait(600) == 0, second.output
    assert training.job() != job
    assert training.stored.final_digests() == uninterrupted
    state = training.stored.state
    assert [a.outcome for a in state.attempts.values()] == ["failed", "completed"]
    assert next(reversed(state.attempts.values())).resume is not None


@pytest.mark.slow
@pytest.mark.s3
def test_another_configuration_does_not_follow_the_job_but_takes_the_run_over(
    training: JobTraining,
) -> None:
    training.allow(SOME)
    first = training.start_gated()
    training.wait_for_versions(2)
    kill(first)
    job = training.job()
    second = training.start_gated(epochs=2)
    wait_until(lambda: training.kinds().count("AttemptStarted") == 2, 400, "a second attempt")
    training.allow(ALL)
    assert second.wait(600) == 0, second.output
    training.wait_for_status(job, "FAILED")
    assert training.kinds().count("AttemptStarted") == 2
