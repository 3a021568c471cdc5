"""The deployments of `prefect.yaml` on the server, put there by the real `prefect deploy`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema

from deployments.deployment_file import load_flow, problems_in
from ray_workers.store.errors import InvalidInputError, PawlError

__all__ = ["DeploymentSet"]

_DEPLOY_LIMIT_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSet:
    """All deployments of one file.

    Args:
        file: the content of `prefect.yaml`.
        project: the folder that runs start in, as the workers see it; None: where this program runs.
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
            flow = load_flow(each["entrypoint"])
            name = f"{flow.name}/{each['name']}"
            try:
                found = client.read_deployment_by_name(name)
            except ObjectNotFound:
                said.append(f"{name} is not there")
                continue
            differ = _differences(each, found)
            if _form(parameter_schema(flow).model_dump_for_openapi()) != _form(found.parameter_openapi_schema):  # fmt: skip
                differ.append("the run form")  # as after an update: this Pawl has other parameters
            if self.project is not None and self._pull() != found.pull_steps:
                differ.append("pull")
            if differ:
                said.append(f"{name} differs in {', '.join(differ)}")
        return "; ".join(said) or None

    def put(self, client: SyncPrefectClient) -> None:
        """Raises `InvalidInputError` for a file with mistakes, and `PawlError` with what `prefect deploy` said."""
        if problems := problems_in(self.file):
            raise InvalidInputError(f"The deployment file has mistakes: {'; '.join(problems)}.")
        if self.missing(client) is None:
            return
        with tempfile.TemporaryDirectory(prefix="pawl-deploy-") as folder:
            path = Path(folder, "prefect.yaml")
            path.write_text(yaml.safe_dump(self._with_pull(), sort_keys=False))
            _deploy(path)

    def _with_pull(self) -> dict[str, Any]:
        return {**self.file, "pull": self._pull()} if self.project is not None else dict(self.file)

    def _pull(self) -> list[dict[str, Any]]:
        return [{"prefect.deployments.steps.set_working_directory": {"directory": self.project}}]


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
        "concurrency_limit": (_limit(wanted.get("concurrency_limit")), _limit_of(found)),
    }
    differ = [key for key, (want, have) in pairs.items() if want != have]
    slugs = {schedule.slug for schedule in found.schedules}
    if any(schedule["slug"] not in slugs for schedule in wanted.get("schedules") or []):
        differ.append("schedules")
    return differ


def _form(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """A schema of parameters without what is empty: the server does not keep it."""
    return {key: value for key, value in (schema or {}).items() if value}


def _limit(wanted: Any) -> tuple[int | None, str | None]:
    if isinstance(wanted, Mapping):
        return wanted.get("limit"), wanted.get("collision_strategy")
    return wanted, None


def _limit_of(found: DeploymentResponse) -> tuple[int | None, str | None]:
    limit = found.global_concurrency_limit
    options = found.concurrency_options
    return (limit.limit if limit else None), (options.collision_strategy.value if options else None)
