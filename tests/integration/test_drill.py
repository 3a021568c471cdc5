"""`pawl drill` as a user runs it: real Ray workers, a real Prefect server, on Ceph and on a folder."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from ray_workers.health_facts import look_at_root
from ray_workers.health_values import Objective
from ray_workers.store.credentials import S3Credentials
from ray_workers.store.opening import StorageTarget
from ray_workers.store.versions import load_manifest
from tests.integration.conftest import PrefectServer
from tests.integration.harness import StoredRun, start_pawl, train_arguments, wait_until
from tests.support.drill_table import add
from tests.support.factories import flip_byte
from tests.support.s3_server import S3Server

ROWS = Path(os.environ.get("PAWL_DRILLS", "build/drills.jsonl"))

pytestmark = [pytest.mark.ray, pytest.mark.prefect, pytest.mark.slow]


def pawl(folder: Path, env, *arguments: str) -> tuple[int, str]:
    process = start_pawl(folder, *arguments, env=env)
    return process.wait(), process.output


def events(server: PrefectServer, name: str):
    def look():
        answer = httpx.post(
            f"{server.api_url}/events/filter",
            json={"filter": {"event": {"name": [name]}}},
            timeout=20,
        )
        return answer.json()["events"]

    return wait_until(look, 120, f"an event {name}")


@pytest.mark.s3
def test_a_version_is_restored_on_fresh_workers_and_called_restorable(
    s3_server: S3Server, tmp_path: Path, prefect_server: PrefectServer
) -> None:
    url = f"s3://{s3_server.new_bucket()}/pawl"
    keys = S3Credentials(
        access_key_id=s3_server.access_key,
        secret_access_key=s3_server.secret_key,
        region=s3_server.region,
        endpoint_url=s3_server.endpoint,
    )
    env = {**prefect_server.env, **s3_server.environment()}
    arguments = train_arguments("drilled", "--storage", url)
    assert pawl(tmp_path, env, *arguments)[0] == 0
    stored = StoredRun(target=StorageTarget(url, keys), run="drilled")
    before = stored.state
    code, output = pawl(tmp_path, env, "drill", "drilled@2", "drilled", "--storage", url)
    assert code == 0, output
    state = stored.state
    newest = state.newest_first()[0].number
    assert [v.number for v in state.versions.values() if v.rung == "restorable"] == [2, newest]
    assert (list(state.attempts), list(state.versions)) == (
        list(before.attempts),
        list(before.versions),
    )
    assert state.slot == before.slot + 2
    (health,) = look_at_root(stored.target.open().store, Objective(), storage=False).runs
    assert len(health.recovery.drills_s) == 2
    told = events(prefect_server, "pawl.drill.passed")
    mine = [
        e["payload"] for e in told if e["resource"]["prefect.resource.id"] == "pawl.run.drilled"
    ]
    second = next(payload for payload in mine if payload["number"] == 2)
    assert second["bit_identical"] is True
    assert second["workers"] == 2
    assert second["probe_saved"] == second["probe_read"]
    for payload in sorted(mine, key=lambda one: one["number"]):
        finished = "the finished run" if payload["number"] == newest else "a run in mid-epoch"
        add(ROWS, f"{finished}, step {state.versions[payload['number']].step}", payload)


def test_a_drill_that_fails_says_so_and_quarantines_only_for_the_bytes(
    tmp_path: Path, prefect_server: PrefectServer
) -> None:
    url = str(tmp_path / "store")
    env = prefect_server.env
    assert pawl(tmp_path, env, *train_arguments("bad", "--storage", url))[0] == 0
    stored = StoredRun(target=StorageTarget(url), run="bad")
    (tmp_path / "mine.py").write_text(
        "import time\n"
        "def raises(config):\n    raise ValueError('planted in the loop')\n"
        "def hangs(config):\n    time.sleep(10_000)\n"
    )
    for loop, words in (("raises", "ValueError: planted in the loop"), ("hangs", "within 5 s")):
        code, output = pawl(
            tmp_path, env, "drill", "bad@2", "--storage", url, "--entrypoint", f"mine:{loop}", "--timeout", "5",
        )  # fmt: skip
        assert code == 1, output
        assert words in output
        assert stored.state.versions[2].rung == "sound"
    slot = stored.state.slot
    manifest = load_manifest(stored.target.open().store, "bad", stored.state.versions[2])
    flip_byte(Path(url), manifest.shards[0].key)
    code, output = pawl(tmp_path, env, "drill", "bad@2", "--storage", url)
    assert code == 1, output
    assert stored.state.versions[2].bad_bytes
    assert stored.state.slot == slot + 1
    assert events(prefect_server, "pawl.drill.failed")
