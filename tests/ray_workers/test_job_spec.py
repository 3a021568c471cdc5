"""The spec of a Ray job: everything comes back, and no key is in it."""

from __future__ import annotations

import base64
import hashlib
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from ray_workers.config import Saving, Scaling, Validation
from ray_workers.job_spec import JobSpec, credentials_letter, fingerprint, open_letter
from ray_workers.messages import ResumePoint
from ray_workers.store.bodies import VersionName
from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.opening import StorageTarget
from ray_workers.training_job import TrainingJob

KEYS = S3Credentials(
    access_key_id="AKIAEXAMPLE",
    secret_access_key="very-secret",
    session_token="of-one-session",
    region="eu-west-1",
    endpoint_url="http://store:9000",
)
JOB = TrainingJob(
    target=StorageTarget("s3://bucket/runs", KEYS),
    run="run",
    run_id="0" * 32,
    fence=7,
    flow_run_id="flow",
    run_count=2,
    by={"host": "here", "pid": 3},
    entrypoint="mine:loop",
    config={"lr": 0.1, "layers": [1, 2], "name": "x", "flag": None},
    code_dir=Path("/home/me"),
    resume=ResumePoint(
        run="other",
        name=VersionName(number=3, manifest="a" * 64),
        manifest_key="key",
        step=10,
        rung="sound",
        foreign=True,
    ),
    scaling=Scaling(workers=3, ray_address="http://head:8265"),
    saving=Saving(every_steps=5),
    validation=Validation(max_norm_ratio=3.0),
)


def test_the_job_comes_back_with_the_keys_and_in_its_own_folder() -> None:
    spec = JobSpec.decode(JobSpec.of(JOB).encode(), Path("/there"))
    assert spec.wants_keys
    keys = open_letter(credentials_letter(KEYS))
    assert spec.with_keys(keys) == replace(JOB, code_dir=Path("/there"))


def test_no_key_is_in_what_ray_shows() -> None:
    shown = zlib.decompress(base64.b64decode(JobSpec.of(JOB).encode())).decode()
    for secret in (KEYS.access_key_id, KEYS.secret_access_key, KEYS.session_token):
        assert str(secret) not in shown
    assert "http://store:9000" in shown


def test_without_keys_none_are_asked_for() -> None:
    plain = replace(JOB, target=StorageTarget("s3://bucket/runs", S3Credentials(region="r")))
    spec = JobSpec.decode(JobSpec.of(plain).encode(), Path("/there"))
    assert not spec.wants_keys
    assert spec.with_keys(None).target == plain.target


def test_a_configuration_that_fits_no_environment_is_refused() -> None:
    noise = "".join(hashlib.sha256(bytes([i % 256, i // 256])).hexdigest() for i in range(6000))
    with pytest.raises(InvalidInputError, match="too large"):
        JobSpec.of(replace(JOB, config={"text": noise})).encode()


@pytest.mark.parametrize("text", ["", "nonsense", base64.b64encode(zlib.compress(b"{}")).decode()])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="no valid spec"):
        JobSpec.decode(text, Path("/there"))


def test_the_fingerprint_tells_what_is_trained_and_where() -> None:
    own = fingerprint("a:b", {"x": 1, "y": 2}, "s3://b")
    assert own == fingerprint("a:b", {"y": 2, "x": 1}, "s3://b")
    others = {
        fingerprint("a:c", {"x": 1, "y": 2}, "s3://b"),
        fingerprint("a:b", {"x": 1, "y": 3}, "s3://b"),
        fingerprint("a:b", {"x": 1, "y": 2}, "s3://c"),
    }
    assert own not in others
    assert len(others) == 3
