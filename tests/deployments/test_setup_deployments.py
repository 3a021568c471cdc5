"""What `pawl setup` deploys over a server on which a user has set things; the real server is in tests/integration."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.client.schemas.objects import ConcurrencyOptions, DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse, GlobalConcurrencyLimitResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema

from deployments import setup_deployments
from deployments.deployment_file import load_flow, problems_in, read_deployments
from deployments.setup_deployments import DeploymentSet

HERE = [{"prefect.deployments.steps.set_working_directory": {"directory": "/here"}}]


class Server:
    """Deployments by name, as Prefect's client gives them."""

    def __init__(self, file: dict[str, Any]) -> None:
        self.found = {each["name"]: deployed(each) for each in file["deployments"]}
        self.updates: list[Any] = []
        self.schedules: list[Any] = []

    def limit(self, name: str, limit: int, strategy: str) -> None:
        """As a user sets it."""
        self.found[name] = self.found[name].model_copy(update=limited(limit, strategy))

    def read_deployment_by_name(self, name: str) -> DeploymentResponse:
        try:
            return self.found[name.partition("/")[2]]
        except KeyError:
            raise ObjectNotFound(http_exc=SimpleNamespace()) from None  # type: ignore[arg-type]

    def create_deployment_schedules(self, _deployment_id, schedules) -> None:
        self.schedules += schedules

    def update_deployment(self, _deployment_id, deployment) -> None:
        self.updates.append(deployment)


def deployed(entry: dict[str, Any]) -> DeploymentResponse:
    """As the server has it after the file was deployed for the first time."""
    flow, limit = load_flow(entry["entrypoint"]), entry.get("concurrency_limit")
    return DeploymentResponse(
        id=uuid4(), flow_id=uuid4(), name=entry["name"], labels={}, entrypoint=entry["entrypoint"], tags=entry["tags"],
        description=entry["description"], parameters=entry["parameters"], pull_steps=HERE,
        parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
        work_pool_name="pawl", work_queue_name="default", job_variables=entry["work_pool"]["job_variables"],
        **({} if limit is None else limited(limit["limit"], limit["collision_strategy"])),
        schedules=[
            DeploymentSchedule(schedule=CronSchedule(cron=each["cron"]), active=True, slug=each["slug"])
            for each in entry.get("schedules", [])
        ],
    )  # fmt: skip


def limited(limit: int, strategy: str) -> dict[str, Any]:
    return {
        "global_concurrency_limit": GlobalConcurrencyLimitResponse(
            id=uuid4(), created=None, updated=None, active=True, name="x", limit=limit, active_slots=0,
            slot_decay_per_second=0,
        ),
        "concurrency_options": ConcurrencyOptions(collision_strategy=strategy),
    }  # fmt: skip


@pytest.fixture
def file() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(read_deployments()))
    return found


@pytest.fixture
def server(file) -> Server:
    return Server(file)


@pytest.fixture
def deploys(monkeypatch) -> list[dict[str, Any]]:
    """The files that `prefect deploy` is given."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(
        setup_deployments,
        "_deploy",
        lambda path: made.append(yaml.safe_load(Path(path).read_text())),
    )
    return made


def entry_of(file: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = [each for each in file["deployments"] if each["name"] == name]
    return found


def test_what_a_user_sets_is_no_drift(file, server, deploys):
    maintain, drill = server.found["maintain"], server.found["drill"]
    maintain.parameters = {**maintain.parameters, "dry_run": False, "retention": {"keep_last": 3}}
    drill.parameters = {**drill.parameters, "code_dir": "/loops", "ray_address": "head:6379"}
    maintain.schedules[0].active = False
    maintain.schedules[0].schedule = CronSchedule(cron="0 5 * * *")
    drill.schedules.append(DeploymentSchedule(schedule=CronSchedule(cron="0 1 * * 0"), active=True))
    server.found["compare"].global_concurrency_limit = None
    server.limit("train", 8, "ENQUEUE")
    server.found["train"].job_variables |= {"working_dir": "/data"}
    server.found["scrub"].paused = True
    server.found["scrub"].work_queue_name = "slow"
    deployments = DeploymentSet(file=file)
    assert deployments.missing(server) is None
    deployments.put(server)
    assert deploys == []


def test_deploying_for_another_reason_leaves_what_is_the_users(file, server, deploys):
    maintain, drill, scrub = (server.found[name] for name in ("maintain", "drill", "scrub"))
    maintain.parameters = {"storage": "pawl-storage/mine", "dry_run": False, "retention": {"keep_last": 3}}  # fmt: skip
    drill.schedules.append(DeploymentSchedule(schedule=CronSchedule(cron="0 1 * * 0"), active=True))
    scrub.paused, scrub.work_queue_name = True, "slow"
    scrub.job_variables = {"working_dir": "/data", "env": {"MINE": "1", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "180"}}  # fmt: skip
    server.limit("train", 8, "ENQUEUE")
    server.found["train"].description = "mine"
    DeploymentSet(file=file).put(server)
    (made,) = deploys
    assert problems_in(made) == []
    assert entry_of(made, "maintain")["parameters"] == maintain.parameters
    assert not any("schedules" in each for each in made["deployments"])  # they would replace others
    assert entry_of(made, "train")["concurrency_limit"]["limit"] == 8
    assert entry_of(made, "train")["description"] != "mine"
    assert entry_of(made, "scrub")["paused"] is True
    assert entry_of(made, "scrub")["work_pool"] == {
        "name": "pawl",
        "work_queue_name": "slow",
        # the automations build on the heartbeat; the rest is the user's
        "job_variables": {
            "working_dir": "/data",
            "env": {"MINE": "1", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"},
        },
    }
    assert server.schedules == []
    assert server.updates == []


def test_what_the_file_has_and_the_server_lacks_is_added(file, server, deploys):
    server.found["maintain"].parameters = {"dry_run": False, "gone_since": "an older Pawl"}
    server.found["maintain"].schedules = [
        DeploymentSchedule(schedule=CronSchedule(cron="0 1 * * 0"), active=True)
    ]
    del server.found["health"]
    deployments = DeploymentSet(file=file)
    said = deployments.missing(server)
    assert said is not None
    assert "pawl-health/health is not there" in said
    assert "pawl-maintain/maintain differs in parameters, schedules" in said
    deployments.put(server)
    (made,) = deploys
    assert entry_of(made, "maintain")["parameters"] == {"storage": "pawl-storage/main", "dry_run": False}  # fmt: skip
    assert entry_of(made, "health") == entry_of(file, "health")
    assert [(s.slug, s.schedule.cron) for s in server.schedules] == [("nightly", "30 2 * * *")]


def test_placeholders_wait_for_the_run_and_are_not_filled_in_by_deploying(file, server, deploys):
    secret = "{{ prefect.blocks.secret.token }}"
    train = server.found["train"]
    train.parameters = {**train.parameters, "config": {"prompt": "{{ name }}"}}
    train.job_variables = {**train.job_variables, "working_dir": secret}
    server.found["health"].description = "mine"
    DeploymentSet(file=file).put(server)
    assert "{{" not in json.dumps(deploys)
    (update,) = server.updates
    assert update.parameters == train.parameters
    assert update.job_variables["working_dir"] == secret


@pytest.mark.parametrize("project", [None, "/app"])
def test_runs_start_where_they_did_unless_another_folder_is_named(file, server, deploys, project):
    del server.found["health"]
    deployments = DeploymentSet(file=file, project=project)
    deployments.put(server)
    (made,) = deploys
    app = [{"prefect.deployments.steps.set_working_directory": {"directory": "/app"}}]
    assert made.get("pull") == (app if project else None)  # of those that are new
    pulls = {each["name"]: each.get("pull") for each in made["deployments"]}
    assert pulls.pop("health") is None
    assert set(map(json.dumps, pulls.values())) == {json.dumps(None if project else HERE)}


@pytest.mark.parametrize(("name", "limit"), [("train", 4), ("promote", 1)])
def test_a_limit_of_an_older_pawl_goes_because_prefect_ends_runs_that_have_one(
    file, server, deploys, name, limit
):
    """Its lease is lost when the server restarts, or while the run is paused for a person."""
    assert entry_of(file, name).get("concurrency_limit") is None
    server.limit(name, limit, "ENQUEUE")
    deployments = DeploymentSet(file=file)
    assert deployments.missing(server) == f"pawl-{name}/{name} differs in concurrency_limit"
    deployments.put(server)
    assert entry_of(deploys[0], name)["concurrency_limit"] is None
    (update,) = server.updates
    assert update.model_dump(exclude_unset=True) == {"concurrency_limit": None}
