"""Prefect events about runs, for people to hang automations on. The names and labels here are a public interface.

An event's resource is the run: `pawl.run.<run>`, with the labels below. A related resource is the flow run (role
`flow-run`), so an automation may act on it. The payload holds what happened in detail.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event

from ray_workers.messages import PawlEvent
from tasks.run_identity import RunIdentity

__all__ = ["announce", "event_name", "tell_prefect"]

_log = logging.getLogger(__name__)

_NAMES = {
    "committed": "pawl.version.committed",
    "dropped": "pawl.save.dropped",
    "budget_spent": "pawl.save.budget_spent",
    "fence_lost": "pawl.attempt.overtaken",
    "actor_restarted": "pawl.actor.restarted",
    "validator_lost": "pawl.validator.lost",
}


def event_name(event: PawlEvent) -> str | None:
    """The public name of what training told; None for what is only worth a line in the log."""
    if event.kind == "verdict":
        # a check that could not be made has a reason too, and condemns nothing
        quarantined = event.details.get("rung") == "quarantined"
        return "pawl.version.quarantined" if quarantined else "pawl.version.validated"
    return _NAMES.get(event.kind)


def tell_prefect(event: PawlEvent, run: str, identity: RunIdentity) -> None:
    """Emit what training told, if it has a public name. Never raises."""
    name = event_name(event)
    if name is not None:
        announce(name, run, identity, {"message": event.message, **event.details})


def announce(name: str, run: str, identity: RunIdentity, payload: Mapping[str, Any]) -> None:
    """Emit one event about a run from its flow run. Never raises: an event is a view, and must not end training."""
    labels = {
        "prefect.resource.id": f"pawl.run.{run}",
        "prefect.resource.name": run,
        **{
            f"pawl.{key}": str(payload[key]) for key in ("number", "step", "rung") if key in payload
        },
    }
    related = [
        {
            "prefect.resource.id": f"prefect.flow-run.{identity.flow_run_id}",
            "prefect.resource.role": "flow-run",
            "prefect.resource.name": identity.name,
            "prefect.run-count": str(identity.run_count),
        }
    ]
    try:
        emit_event(event=name, resource=labels, related=related, payload=dict(payload))
    except Exception as error:  # noqa: BLE001 - as said above
        _log.warning("The event %s could not be sent: %s", name, error)
