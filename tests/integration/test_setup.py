"""`pawl setup` against a real Prefect server, with the real `prefect deploy`."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.automations import PREFIX
from deployments.cli import pawl
from tests.integration.conftest import PrefectServer

pytestmark = [pytest.mark.prefect, pytest.mark.long]

CANARY = "canary-41d9"


@pytest.fixture
def setup(prefect_server: PrefectServer, monkeypatch, tmp_path):
    """Runs `pawl setup OPTIONS` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for name, value in prefect_server.env.items():
        monkeypatch.setenv(name, value)

    def run(*options: str) -> Result:
        with temporary_settings({PREFECT_API_URL: prefect_server.api_url}):
            return CliRunner().invoke(pawl, ["setup", *options])

    return run


def ask(server: PrefectServer, path: str, body: dict[str, object] | None = None):
    answer = httpx.post(f"{server.api_url}{path}", json=body or {}, timeout=60)
    assert answer.status_code == httpx.codes.OK, answer.text
    return answer.json()


def ids(server: PrefectServer) -> dict[str, str]:
    """Everything that `pawl setup` makes, by name."""
    automations = ask(server, "/automations/filter")
    deployments = ask(server, "/deployments/filter")
    documents = ask(server, "/block_documents/filter")
    found = {a["name"]: a["id"] for a in automations if a["name"].startswith(PREFIX)}
    found |= {d["name"]: d["id"] for d in deployments if "pawl" in d["tags"]}
    return found | {d["name"]: d["id"] for d in documents if d["name"] == "main"}


def test_set_up_twice_it_changes_nothing_and_keeps_what_the_user_made(
    prefect_server: PrefectServer, setup
):
    before = setup("--check")
    assert before.exit_code == 1, before.output
    assert "block type pawl-storage: not registered" in before.output
    assert "stays Running for ever" in before.output
    assert ids(prefect_server) == {}

    first = setup("--max-runs", "3")
    assert first.exit_code == 0, first.output
    made = ids(prefect_server)
    assert f"{PREFIX}crashed, so try 3 of 3" in made
    assert "train" in made

    prefect_server.cli("deployment", "schedule", "create", "pawl-train/train", "--interval", "3600")
    second = setup()
    assert second.exit_code == 0, second.output
    assert "put in place" not in second.output
    assert ids(prefect_server) == made
    assert "interval" in prefect_server.cli("deployment", "schedule", "ls", "pawl-train/train")

    check = setup("--check")
    assert "1 of 8 are missing" in check.output  # nobody started a worker for the pool here
    assert "prefect worker start --pool pawl" in check.output

    fewer = setup("--max-runs", "2")
    assert fewer.exit_code == 0, fewer.output
    left = ids(prefect_server)
    assert f"{PREFIX}crashed, so try 2 of 2" in left
    assert not any("of 3" in name for name in left)
    assert left["train"] == made["train"]

    deployment = next(d for d in ask(prefect_server, "/deployments/filter") if d["name"] == "train")
    old_form = {"title": "Parameters", "type": "object", "properties": {}}
    httpx.patch(
        f"{prefect_server.api_url}/deployments/{deployment['id']}", timeout=60,
        json={"description": "mine", "parameter_openapi_schema": old_form},
    ).raise_for_status()  # fmt: skip
    drifted = setup("--check")
    assert "pawl-train/train differs in description, the run form" in drifted.output
    mended = setup("--project", "/app")
    assert mended.exit_code == 0, mended.output
    deployment = next(d for d in ask(prefect_server, "/deployments/filter") if d["name"] == "train")
    assert deployment["description"] != "mine"
    assert "config" in deployment["parameter_openapi_schema"]["properties"]
    assert deployment["pull_steps"] == [
        {"prefect.deployments.steps.set_working_directory": {"directory": "/app"}}
    ]
    assert deployment["schedules"], "a schedule made in the UI is lost"


def test_what_a_user_sets_on_a_deployment_outlives_setups_that_deploy(
    prefect_server: PrefectServer, setup, tmp_path
):
    def deployment() -> dict[str, Any]:
        found = ask(prefect_server, "/deployments/filter")
        (maintain,) = [each for each in found if each["name"] == "maintain"]
        return dict(maintain)

    def patch(path: str, body: dict[str, object]) -> None:
        url = f"{prefect_server.api_url}/deployments/{deployment()['id']}{path}"
        httpx.patch(url, json=body, timeout=60).raise_for_status()

    assert setup("--project", str(tmp_path)).exit_code == 0
    wanted = {"storage": "pawl-storage/main", "dry_run": False, "retention": {"keep_last": 3}}
    patch("", {"parameters": wanted})
    patch(f"/schedules/{deployment()['schedules'][0]['id']}", {"active": False})
    prefect_server.cli("deployment", "schedule", "create", "pawl-maintain/maintain", "--interval", "3600")  # fmt: skip
    mine = setup()
    assert "7 deployments: already there" in mine.output, mine.output

    patch("", {"description": "mine"})
    deployed = setup()
    assert "7 deployments: put in place" in deployed.output, deployed.output
    found = deployment()
    assert found["description"] != "mine"
    assert found["parameters"] == wanted
    assert [(s["slug"], s["active"]) for s in found["schedules"] if s["slug"]] == [("nightly", False)]  # fmt: skip
    assert [s["schedule"]["interval"] for s in found["schedules"] if not s["slug"]] == [3600]
    assert found["pull_steps"] == [
        {"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}
    ]


@pytest.mark.long
def test_a_limit_of_an_older_pawl_goes_and_one_that_a_user_sets_stays(
    prefect_server: PrefectServer, setup, tmp_path
):
    """With one Prefect ends a run when its server restarts, or while a person is asked."""

    def limited(name: str, limit: int) -> int | None:
        (found,) = [d for d in ask(prefect_server, "/deployments/filter") if d["name"] == name]
        url = f"{prefect_server.api_url}/deployments/{found['id']}"
        body = {
            "concurrency_limit": limit,
            "concurrency_options": {"collision_strategy": "ENQUEUE"},
        }
        httpx.patch(url, json=body, timeout=60).raise_for_status()
        assert setup().exit_code == 0
        kept = httpx.get(url, timeout=60).json()["global_concurrency_limit"]
        return None if kept is None else int(kept["limit"])

    assert setup("--project", str(tmp_path)).exit_code == 0
    assert limited("train", 4) is None
    assert limited("train", 3) == 3
    assert limited("promote", 1) is None


def test_keys_stay_in_the_block(prefect_server: PrefectServer, setup, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    done = setup("--storage", "s3://bucket/pawl")
    assert done.exit_code == 0, done.output
    assert CANARY not in done.output
    everything = [
        ask(prefect_server, path)
        for path in ("/block_documents/filter", "/deployments/filter", "/automations/filter", "/variables/filter")
    ]  # fmt: skip
    assert "s3://bucket/pawl" in json.dumps(everything)
    assert CANARY not in json.dumps(everything)


def test_bad_input_is_one_sentence(setup, monkeypatch):
    assert (
        "There is no block 'slack-webhook/nobody'"
        in setup("--notify", "slack-webhook/nobody").output
    )
    assert "is not of the form 30,60,300" in setup("--backoff", "soon").output
    assert "choose 1 to 9" in setup("--max-runs", "99").output
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        unreachable = CliRunner().invoke(pawl, ["setup"])
    assert unreachable.exit_code == 75
    assert "No Prefect server answers at http://127.0.0.1:9/api" in unreachable.output
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        nowhere = CliRunner().invoke(pawl, ["setup"])
    assert nowhere.exit_code == 2
    assert "PREFECT_API_URL is not set" in nowhere.output
