"""The deployments of `prefect.yaml` on the server, put there by the real `prefect deploy`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect.cli.deploy._schedules import _schedule_config_to_deployment_schedule
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema

from deployments.deployment_file import load_flow, problems_in
from deployments.kept_settings import concurrency_of, with_kept, without_templates
from ray_workers.store.errors import InvalidInputError, PawlError

__all__ = ["DeploymentSet"]

_DEPLOY_LIMIT_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSet:
    """All deployments of one file. What a user has set on one that is there stays (`kept_settings`).

    Args:
        file: the content of `prefect.yaml`.
        project: the folder that runs start in, as the workers see it; None: where a deployment that is there has it, and
            a new one where this program runs.
    """

    file: Mapping[str, Any]
    project: str | None = None

    @property
    def name(self) -> str:
        return f"{len(self.file['deployments'])} deployments"

    @property
    def why(self) -> str:
        return "They are what the UI starts, schedules and retries; a run without one cannot be brought back."

    def missing(self, client: SyncPrefectClient) -> str | None:
        said = []
        for each in self.file["deployments"]:
            name, found = _read(client, each)
            if found is None:
                said.append(f"{name} is not there")
            elif differ := self._differences(each, found):
                said.append(f"{name} differs in {', '.join(differ)}")
        return "; ".join(said) or None

    def put(self, client: SyncPrefectClient) -> None:
        """Raises `InvalidInputError` for a file with mistakes, and `PawlError` with what `prefect deploy` said."""
        if problems := problems_in(self.file):
            raise InvalidInputError(f"The deployment file has mistakes: {'; '.join(problems)}.")
        if self.missing(client) is None:
            return
        read = [(each, _read(client, each)[1]) for each in self.file["deployments"]]
        there = [(each, self._over(each, found), found) for each, found in read if found]
        new = [each for each, found in read if found is None]
        with tempfile.TemporaryDirectory(prefix="pawl-deploy-") as folder:
            path = Path(folder, "prefect.yaml")
            entries = [*new, *(_deployable(entry) for _, entry, _ in there)]
            path.write_text(yaml.safe_dump(self._to_deploy(entries), sort_keys=False))
            _deploy(path)
        for each, entry, found in there:
            _settle(client, entry, found, _missing_schedules(each, found))

    def _differences(self, each: Mapping[str, Any], found: DeploymentResponse) -> list[str]:
        differ = _differences(self._over(each, found), found)
        if _missing_schedules(each, found):
            differ.append("schedules")
        schema = parameter_schema(load_flow(each["entrypoint"]))
        if _form(schema.model_dump_for_openapi()) != _form(found.parameter_openapi_schema):
            differ.append("the run form")  # as after an update: this Pawl has other parameters
        if self.project is not None and self._pull() != found.pull_steps:
            differ.append("pull")
        return differ

    def _over(self, each: Mapping[str, Any], found: DeploymentResponse) -> dict[str, Any]:
        entry = with_kept(each, found, parameter_schema(load_flow(each["entrypoint"])).properties)
        if self.project is None and "pull" not in self.file and found.pull_steps:
            entry["pull"] = found.pull_steps
        return entry

    def _to_deploy(self, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        file = {**self.file, "deployments": list(entries)}
        return {**file, "pull": self._pull()} if self.project is not None else file

    def _pull(self) -> list[dict[str, Any]]:
        return [{"prefect.deployments.steps.set_working_directory": {"directory": self.project}}]


def _read(
    client: SyncPrefectClient, each: Mapping[str, Any]
) -> tuple[str, DeploymentResponse | None]:
    name = f"{load_flow(each['entrypoint']).name}/{each['name']}"
    try:
        return name, client.read_deployment_by_name(name)
    except ObjectNotFound:
        return name, None


def _deployable(entry: Mapping[str, Any]) -> dict[str, Any]:
    pool = entry["work_pool"]
    return {
        **entry,
        "parameters": without_templates(entry["parameters"]),
        "work_pool": {**pool, "job_variables": without_templates(pool["job_variables"])},
    }


def _settle(
    client: SyncPrefectClient,
    entry: Mapping[str, Any],
    found: DeploymentResponse,
    absent: Sequence[Mapping[str, Any]],
) -> None:
    """What `prefect deploy` does not do without touching what is the user's."""
    if absent:
        # Given to `prefect deploy`, they would replace every other one as soon as one of those has no slug.
        client.create_deployment_schedules(
            found.id,
            [
                DeploymentScheduleCreate(**_schedule_config_to_deployment_schedule(dict(schedule)))
                for schedule in absent
            ],
        )
    if entry["concurrency_limit"] is None and found.global_concurrency_limit is not None:
        client.update_deployment(found.id, DeploymentUpdate(concurrency_limit=None))
    if _deployable(entry) != entry:
        client.update_deployment(
            found.id,
            DeploymentUpdate(
                parameters=entry["parameters"], job_variables=entry["work_pool"]["job_variables"]
            ),
        )


def _deploy(path: Path) -> None:
    command = [
        sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--prefect-file", str(path), "--all",
    ]  # fmt: skip
    done = subprocess.run(  # noqa: S603 - our own interpreter and file
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=_DEPLOY_LIMIT_S,
    )  # fmt: skip
    if done.returncode:
        raise PawlError(f"prefect deploy failed: {(done.stderr or done.stdout).strip()[-2000:]}")


def _differences(wanted: Mapping[str, Any], found: DeploymentResponse) -> list[str]:
    pool = wanted.get("work_pool") or {}
    pairs = {
        "entrypoint": (wanted["entrypoint"], found.entrypoint),
        "description": (wanted.get("description"), found.description),
        "tags": (sorted(wanted.get("tags") or []), sorted(found.tags)),
        "parameters": (wanted.get("parameters") or {}, found.parameters),
        "work_pool": (pool.get("name"), found.work_pool_name),
        "job_variables": (pool.get("job_variables") or {}, found.job_variables),
        "concurrency_limit": (wanted.get("concurrency_limit"), concurrency_of(found)),
    }
    return [key for key, (want, have) in pairs.items() if want != have]


def _missing_schedules(
    wanted: Mapping[str, Any], found: DeploymentResponse
) -> list[Mapping[str, Any]]:
    slugs = {schedule.slug for schedule in found.schedules}
    return [each for each in wanted.get("schedules") or [] if each["slug"] not in slugs]


def _form(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """A schema of parameters without what is empty: the server does not keep it."""
    return {key: value for key, value in (schema or {}).items() if value}
