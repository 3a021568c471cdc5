"""Prefect events about runs, for people to hang automations on. The names and labels here are a public interface.

An event's resource is the run: `pawl.run.<run>`, with the labels below. A related resource is the flow run (role
`flow-run`), so an automation may act on it. The payload holds what happened in detail.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from prefect.events import emit_event

from ray_workers.messages import PawlEvent
from tasks.run_identity import RunIdentity, unannounced_start

__all__ = ["announce", "announce_schedule", "event_name", "tell_prefect"]

_log = logging.getLogger(__name__)

_NAMES = {
    "committed": "pawl.version.committed",
    "dropped": "pawl.save.dropped",
    "budget_spent": "pawl.save.budget_spent",
    "fence_lost": "pawl.attempt.overtaken",
    "actor_restarted": "pawl.actor.restarted",
    "validator_lost": "pawl.validator.lost",
    "hung": "pawl.rank.hung",
    "resized": "pawl.run.resized",
}


_TOO_LONG = {"stacks"}
"""What has an artifact of its own."""


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
        told = {key: value for key, value in event.details.items() if key not in _TOO_LONG}
        announce(name, run, identity, {"message": event.message, **told})


def announce_schedule(run: str, identity: RunIdentity) -> None:
    """Give Prefect the event that its scheduler owes it, so that the automations hear of this flow run's states in time.

    Each state's event says which one it follows, and Prefect keeps an event back until that one came, up to 15 minutes.
    Its scheduler emits none for the state in which it makes a run (3.8.8, seen): a scheduled run that crashed in its
    first quarter of an hour would come back only after it. Never raises.
    """
    try:
        owed = unannounced_start(identity)
    except Exception as error:  # noqa: BLE001 - an event is a view; without it the run comes back later
        _log.warning("Whether a schedule started this run is unknown: %s", error)
        return
    if owed is not None:
        announce("pawl.run.scheduled", run, identity, {}, event_id=owed)


def announce(
    name: str,
    run: str,
    identity: RunIdentity,
    payload: Mapping[str, Any],
    event_id: UUID | None = None,
) -> None:
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
        emit_event(event=name, resource=labels, related=related, payload=dict(payload), id=event_id)
    except Exception as error:  # noqa: BLE001 - as said above
        _log.warning("The event %s could not be sent: %s", name, error)
