"""What ended an attempt: the machine, the user's code, somebody who asked for it, or nothing at all. Pure, from the log's words."""

from __future__ import annotations

import re

from ray_workers.policies.failure_words import read_failure

__all__ = ["CAUSES", "asked_by", "cause_of_end", "is_broken_group", "is_lost"]

CAUSES = ("infrastructure", "user", "asked", "none")
"""Only `infrastructure` says how often training will fail: an exception of the loop is mended, not waited for; whoever
asks for the end is given a last version first."""

_LOST_PARTS = {
    "ActorDiedError",
    "ActorUnavailableError",
    "NodeDiedError",
    "ObjectLostError",
    "OwnerDiedError",
    "RayActorError",
    "RaySystemError",
    "WorkerCrashedError",
    "ConnectionError",
    "ConnectionResetError",
    "BrokenPipeError",
}
_OF_GROUPS = {"DistBackendError", "DistNetworkError", "DistStoreError"}
_BROKEN_GROUP = re.compile(
    r"connection (closed|reset|refused)|gloo|nccl|broken pipe|socket|ecc error|xid|timed? ?out",
    re.IGNORECASE,
)
"""How the ranks that live on speak of the one that died."""


_ASKED = {
    "ctrl-c": "Ctrl-C", "sigterm": "SIGTERM", "time limit": "time limit", "node draining": "preempted",
    "preempted": "preempted", "resize": "resized",
}  # fmt: skip
"""How the reason of an interrupted attempt begins, and what it is called."""


def asked_by(reason: str | None) -> str:
    """What an interrupted attempt was ended by, by its reason: `Ctrl-C`, `SIGTERM`, `time limit`, `preempted`, `resized` or `cancelled`."""
    text = (reason or "").lower()
    return next((what for word, what in _ASKED.items() if text.startswith(word)), "cancelled")


def cause_of_end(outcome: str | None, reason: str | None, *, open_now: bool) -> str:
    """One of `CAUSES`.

    Args:
        outcome: of the attempt's end record; None: there is none.
        reason: of the same record.
        open_now: the attempt still holds the fence.
    """
    if outcome in ("completed", "finished"):
        return "none"
    if outcome is None:
        return "none" if open_now else "infrastructure"
    text = reason or ""
    if outcome == "interrupted" or "taken over" in text:
        return "asked"
    raised = read_failure(text)
    if raised is None or not raised.error:
        # No rank could say what happened: Ray lost them, or the store spent the failure budget.
        return "infrastructure"
    if is_lost(raised.error) or is_broken_group(raised.error, raised.said):
        return "infrastructure"
    return "user"


def is_lost(error: str) -> bool:
    """An exception of this type says that a process or machine is gone."""
    return error in _LOST_PARTS


def is_broken_group(error: str, said: str) -> bool:
    """So speak the ranks that live on of one that died."""
    return error in _OF_GROUPS or (
        error in ("RuntimeError", "OSError") and _BROKEN_GROUP.search(said) is not None
    )
