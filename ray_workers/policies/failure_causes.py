"""What ended an attempt: the machine, the user's code, somebody who asked for it, or nothing at all. Pure, from the log's words."""

from __future__ import annotations

import re

__all__ = ["CAUSES", "cause_of_end"]

CAUSES = ("infrastructure", "user", "asked", "none")
"""Only `infrastructure` says how often training will fail: an exception of the loop is mended, not waited for; whoever
asks for the end is given a last version first."""

_RAISED = re.compile(r"failed on rank \d+: (\w+): ?(.*)", re.DOTALL)
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
    "DistBackendError",
    "DistNetworkError",
    "DistStoreError",
}
_BROKEN_GROUP = re.compile(
    r"connection (closed|reset|refused)|gloo|nccl|broken pipe|socket|ecc error|xid|timed? ?out",
    re.IGNORECASE,
)
"""How the ranks that live on speak of the one that died."""


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
    raised = _RAISED.search(text)
    if raised is None:
        # No rank could say what happened: Ray lost them, or the store spent the failure budget.
        return "infrastructure"
    kind, said = raised.groups()
    if kind in _LOST_PARTS or (kind in ("RuntimeError", "OSError") and _BROKEN_GROUP.search(said)):
        return "infrastructure"
    return "user"
