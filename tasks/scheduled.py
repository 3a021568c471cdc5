"""Parameters of a flow run that a schedule started: what the schedule leaves empty is what the deployment says.

Prefect puts a schedule's parameters over those of the deployment, and the schedule dialog of its newer UI writes an empty
value for each field that nobody touched (3.8.8, seen). Taken at its word, such a schedule would train another run, in
another store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from tasks.run_identity import Scheduled, scheduled_run

__all__ = ["deployed_storage", "fill_gaps", "with_deployed"]

_KIND = "__prefect_kind"


def with_deployed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The flow's parameters `values`, with gaps filled if a schedule started the calling flow run."""
    run = scheduled_run()
    return dict(values) if run is None else fill_gaps(values, run)


def deployed_storage() -> str | None:
    """The parameter `storage` of the deployment, for a run of a schedule that leaves it empty."""
    run = scheduled_run()
    return None if run is None else run.deployed.get("storage")


def fill_gaps(values: Mapping[str, Any], run: Scheduled) -> dict[str, Any]:
    """Each empty value, and each empty field of a group of settings, as the deployment has it.

    A value that the schedule does give stands, and so does `config` as a whole: its keys are the loop's own.
    """
    filled = dict(values)
    for name, value in values.items():
        given, deployed = run.given.get(name), run.deployed.get(name)
        if isinstance(value, BaseModel):
            fields = {**_typed(deployed), **_typed(given)}
            filled[name] = type(value).model_validate(fields)
        elif _is_gap(given) and (not _is_gap(deployed) or _is_unfinished(given)):
            filled[name] = {} if _is_gap(deployed) else deployed
    return filled


def _typed(group: Any) -> dict[str, Any]:
    return {key: value for key, value in (group or {}).items() if not _is_gap(value)}


def _is_gap(value: Any) -> bool:
    return value is None or _is_unfinished(value)


def _is_unfinished(value: Any) -> bool:
    """A JSON field of the dialog in which nobody wrote."""
    return isinstance(value, Mapping) and _KIND in value and value.get("value") is None
