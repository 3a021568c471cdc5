"""The digits and the GPT run, killed at five moments, on a folder and on Ceph: bit-identical to an uninterrupted run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ray_workers.store.credentials import S3Credentials
from ray_workers.store.opening import StorageTarget
from tests.integration.conftest import PrefectServer
from tests.integration.harness import StoredRun, start_pawl, train_arguments
from tests.support.s3_server import S3Server

pytestmark = [pytest.mark.ray, pytest.mark.prefect, pytest.mark.s3, pytest.mark.slow]

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": (
        "ray_workers.loops.digits:train_loop",
        {"epochs": 4, "batch_size": 64, "step_delay": 0.15},
    ),
    "gpt": (
        "ray_workers.loops.gpt:train_loop",
        {"epochs": 4, "steps_per_epoch": 12, "batch_size": 4, "step_delay": 0.15},
    ),
}
MOMENTS = (1, 2, 4, 6, 8)
"""Everything is killed as soon as so many versions are committed."""


@dataclass(slots=True)
class Place:
    """Where runs are stored, and the environment that reaches it."""

    url: str
    target: StorageTarget
    env: Mapping[str, str] = field(default_factory=dict)


@pytest.fixture(params=["folder", "ceph"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        folder = str(tmp_path / "store")
        return Place(folder, StorageTarget(folder))
    server: S3Server = request.getfixturevalue("s3_server")
    url = f"s3://{server.new_bucket()}/pawl"
    keys = S3Credentials(
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        region=server.region,
        endpoint_url=server.endpoint,
    )
    return Place(url, StorageTarget(url, keys), server.environment())


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_killed_five_times_it_ends_bit_identical(
    loop: str, place: Place, tmp_path: Path, prefect_server: PrefectServer
) -> None:
    entrypoint, config = LOOPS[loop]
    env = {**prefect_server.env, **place.env}

    def start(run: str):
        arguments = train_arguments(
            run, "--storage", place.url, entrypoint=entrypoint, config=config
        )
        return start_pawl(tmp_path, *arguments, env=env)

    whole = start("whole")
    assert whole.wait() == 0, whole.output
    expected = StoredRun(target=place.target, run="whole").final_digests()

    killed = StoredRun(target=place.target, run="killed")
    for versions in MOMENTS:
        process = start("killed")
        killed.wait_for_versions(versions)
        process.kill_everything()
    last = start("killed")
    assert last.wait() == 0, last.output
    # The shards hold every rank's parameters, optimizer state, random state and whole loss series.
    assert killed.final_digests() == expected
    assert [a.outcome for a in killed.state.attempts.values()] == [None] * len(MOMENTS) + [
        "completed"
    ]
