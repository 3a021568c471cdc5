"""Reading `prefect.yaml` more strictly than Prefect, which passes over every key that it does not know."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)
from prefect.flows import Flow
from pydantic import BaseModel

from ray_workers.store.errors import InvalidInputError

__all__ = ["DEPLOYMENTS", "deployment_names", "problems_in", "read_deployments"]

DEPLOYMENTS = Path(__file__).with_name("prefect.yaml")

_ANCHORS = "definitions"
"""Where YAML anchors are kept; Prefect does not read it."""
_STRATEGIES = {"ENQUEUE", "CANCEL_NEW"}
_PROCESS_VARIABLES = {"name", "labels", "env", "command", "stream_output", "working_dir"}


def read_deployments(path: Path = DEPLOYMENTS) -> dict[str, Any]:
    """The file as it stands. Raises `InvalidInputError` if it is no YAML mapping."""
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInputError(f"The deployment file {path} cannot be read: {error}.") from None
    if not isinstance(found, dict):
        raise InvalidInputError(f"The deployment file {path} must be a YAML mapping.")
    return found


def deployment_names(file: Mapping[str, Any]) -> list[str]:
    """As Prefect's command line takes them: `flow/deployment`."""
    return [f"{load_flow(each['entrypoint']).name}/{each['name']}" for each in file["deployments"]]


def problems_in(file: Mapping[str, Any]) -> list[str]:
    """What Prefect would ignore or only notice when a run starts, a sentence each."""
    found = _unknown(file, (*_keys(PrefectYamlModel), _ANCHORS), "the file")
    names: list[str] = []
    for number, each in enumerate(file.get("deployments") or []):
        where = f"deployment {each.get('name', number)!r}"
        found += _in_deployment(each, where)
        names.append(str(each.get("name")))
    found += [f"two deployments are named {name!r}" for name in set(names) if names.count(name) > 1]
    return found


def _in_deployment(each: Mapping[str, Any], where: str) -> list[str]:
    found = _unknown(each, _keys(DeploymentConfig), where)
    found += [
        f"{where} has no {key!r}"
        for key in ("name", "entrypoint", "description", "tags")
        if not each.get(key)
    ]
    pool = each.get("work_pool") or {}
    found += _unknown(pool, _keys(WorkPoolConfig), f"work_pool of {where}")
    found += _unknown(
        pool.get("job_variables") or {}, _PROCESS_VARIABLES, f"job_variables of {where}"
    )
    limit = each.get("concurrency_limit")
    if isinstance(limit, Mapping):
        found += _unknown(limit, _keys(ConcurrencyLimitSpec), f"concurrency_limit of {where}")
        if limit.get("collision_strategy", "ENQUEUE") not in _STRATEGIES:
            found.append(f"collision_strategy of {where} is none of {sorted(_STRATEGIES)}")
    for schedule in each.get("schedules") or []:
        found += _unknown(schedule, _keys(RawScheduleConfig), f"a schedule of {where}")
        if not schedule.get("slug"):
            found.append(
                f"a schedule of {where} has no slug, by which it is kept apart from the UI's"
            )
        found += _in_parameters(each, schedule.get("parameters") or {}, f"a schedule of {where}")
    return found + _in_parameters(each, each.get("parameters") or {}, where)


def _in_parameters(each: Mapping[str, Any], given: Mapping[str, Any], where: str) -> list[str]:
    try:
        parameters = inspect.signature(load_flow(each["entrypoint"]).fn).parameters
    except (KeyError, ImportError, AttributeError, ValueError) as error:
        return [f"the entrypoint of {where} cannot be loaded: {error}"]
    return _unknown(given, parameters, f"parameters of {where}")


def load_flow(entrypoint: str) -> Flow[..., Any]:
    """The flow at `package.module.function`."""
    module, _, name = entrypoint.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, Flow):
        raise ValueError(f"{entrypoint} is no flow")  # noqa: TRY004 - as a bad value in the file
    return found


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _unknown(given: Mapping[str, Any], known: Iterable[str], where: str) -> list[str]:
    known = list(known)
    found = []
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            found.append(
                f"{where} has the unknown key {key!r}"
                + (f"; {near[0]!r} is meant?" if near else "")
            )
    return found
