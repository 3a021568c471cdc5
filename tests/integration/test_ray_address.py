"""A cluster that others started, joined by its address; and clusters that ask for a token, by both kinds of address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_workers.store.credentials import S3Credentials
from ray_workers.store.opening import StorageTarget
from tests.integration.conftest import PrefectServer
from tests.integration.harness import SMALL, PawlProcess, StoredRun, start_pawl, train_arguments
from tests.support.ray_head import RayHead
from tests.support.s3_server import S3Server

pytestmark = [
    pytest.mark.ray,
    pytest.mark.prefect,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
]

TOKEN = "0123456789abcdef0123456789abcdef"
MINE = '''
"""A user's own module: it says whose Pawl the workers run, and what they know of the store's keys."""
import logging
import os

import ray_workers
from ray_workers.loops import digits


def train_loop(config):
    log = logging.getLogger("mine")
    log.warning("pawl from %s", ray_workers.__file__)
    log.warning("my module from %s", __file__)
    log.warning("key in the environment: %s", "AWS_SECRET_ACCESS_KEY" in os.environ)
    digits.train_loop(config)
'''


@pytest.fixture(scope="module")
def token_head() -> Iterator[RayHead]:
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    with RayHead.running(cpus=2, env=env) as head:
        yield head


@pytest.mark.s3
def test_a_joined_cluster_runs_the_flows_code_with_the_flows_keys(
    prefect_server: PrefectServer,
    s3_server: S3Server,
    tmp_path: Path,
    uninterrupted: list[str],
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    url = f"s3://{s3_server.new_bucket()}/pawl"
    arguments = ("run", "--storage", url)
    with RayHead.running(cpus=2) as head:
        process = start_pawl(
            tmp_path,
            *train_arguments(
                *arguments, "--ray-address", head.address, entrypoint="mine:train_loop"
            ),
            env={
                **prefect_server.env,
                **s3_server.environment(),
                "RAY_AUTH_MODE": "disabled",
            },
        )
        assert process.wait(600) == 0, process.output
        logs = [p for p in (head.folder / "ray").glob("session_*/logs/**/*") if p.is_file()]
        said = [log.read_text(errors="replace") for log in logs]
    keys = S3Credentials(
        access_key_id=s3_server.access_key,
        secret_access_key=s3_server.secret_key,
        region=s3_server.region,
        endpoint_url=s3_server.endpoint,
    )
    stored = StoredRun(target=StorageTarget(url, keys), run="run")
    assert stored.final_digests() == uninterrupted
    for rank in (0, 1):
        assert f"[rank {rank}] key in the environment: False" in process.output
        for what in ("pawl from", "my module from"):
            line = next(x for x in process.output.splitlines() if f"[rank {rank}] {what}" in x)
            assert "runtime_resources" in line  # shipped, not what happens to lie on the node
    for text in (process.output, *said):
        assert s3_server.secret_key not in text


def attempt(server: PrefectServer, folder: Path, address: str, env: dict[str, str]) -> PawlProcess:
    arguments = train_arguments(
        "run", "--storage", str(folder / "store"), "--ray-address", address, "--retries", "0",
        config={**SMALL, "epochs": 1, "step_delay": 0},
    )  # fmt: skip
    return start_pawl(folder, *arguments, env={**server.env, **env})


@pytest.mark.parametrize("kind", ["jobs", "joined"])
@pytest.mark.parametrize(
    "wrong", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 32}]
)
def test_a_token_that_is_missing_or_wrong_is_one_sentence_that_says_what_to_set(
    token_head: RayHead,
    prefect_server: PrefectServer,
    tmp_path: Path,
    kind: str,
    wrong: dict[str, str],
) -> None:
    address = token_head.jobs_address if kind == "jobs" else token_head.address
    refused = attempt(prefect_server, tmp_path, address, wrong)
    assert refused.wait(600) == 2, refused.output
    last = refused.output.strip().splitlines()[-1]
    assert "RAY_AUTH_MODE=token" in last
    assert "RAY_AUTH_TOKEN_PATH" in last
    assert "f" * 32 not in refused.output


@pytest.mark.parametrize("kind", ["jobs", "joined"])
def test_with_the_token_it_trains_and_the_token_is_nowhere(
    token_head: RayHead, prefect_server: PrefectServer, tmp_path: Path, kind: str
) -> None:
    address = token_head.jobs_address if kind == "jobs" else token_head.address
    path = tmp_path / "token"
    path.write_text(TOKEN)
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    process = attempt(prefect_server, tmp_path, address, env)
    assert process.wait(600) == 0, process.output
    assert TOKEN not in process.output
    stored = StoredRun(target=StorageTarget(str(tmp_path / "store")), run="run")
    assert stored.final_digests()
