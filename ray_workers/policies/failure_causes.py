"""What ended an attempt: the machine, the user's code, somebody who asked for it, or nothing at all. Pure.

One table for the words of the log and for those of an orchestrator (`run_history`): it goes by the type of the error.
"""

from __future__ import annotations

import re

from ray_workers.policies.failure_words import error_of, read_failure

__all__ = [
    "CAUSES",
    "asked_by",
    "cause_of_end",
    "cause_of_error",
    "is_broken_group",
    "is_lost",
]

CAUSES = ("infrastructure", "user", "asked", "none")
"""Only `infrastructure` says how often training will fail: `user` is an exception of the loop, a state that does not fit, a
refused setting, damage that the next attempt goes around, which are mended and not waited for; whoever asks for the end is
given a last version first."""

_OF_MACHINES = {
    "ClusterUnavailableError",
    "FailureBudgetSpentError",
    "OutcomeUnknownError",
    "RankHungError",
    "RetryableError",
    "StoreUnavailableError",
    "TrainingFailedError",
    "UploadFailedError",
}
"""Of Pawl's own errors those by which machines, the network or the store end training. `TrainingFailedError` itself stands
for a failure of which no rank could say anything."""
_OF_SERVERS = {
    "ConnectError",
    "ConnectTimeout",
    "GetTimeoutError",
    "LocalRayletDiedError",
    "ReadError",
    "ReadTimeout",
    "RemoteProtocolError",
}
"""How Prefect's and Ray's clients say that their server does not answer."""
_OF_WISHES = {"AttemptInterruptedError", "FenceLostError"}

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
    "preempted": "preempted", "resize": "resized", "ended by prefect": "ended by Prefect",
}  # fmt: skip
"""How the reason of an interrupted attempt begins, and what it is called."""


def asked_by(reason: str | None) -> str:
    """What an interrupted attempt was ended by, by its reason: a value of `_ASKED`, or `cancelled`."""
    text = (reason or "").lower()
    return next((what for word, what in _ASKED.items() if text.startswith(word)), "cancelled")


def cause_of_end(
    outcome: str | None, reason: str | None, *, open_now: bool, passed_on: bool = False
) -> str:
    """One of `CAUSES`.

    Args:
        outcome: of the attempt's end record; None: there is none.
        reason: of the same record.
        open_now: the attempt still holds the fence.
        passed_on: another flow run that asked for the takeover took the fence next. Without an end record that is what
            ended the attempt, for all that the log knows.
    """
    if outcome in ("completed", "finished"):
        return "none"
    if outcome is None:
        return "none" if open_now else "asked" if passed_on else "infrastructure"
    text = reason or ""
    if outcome == "interrupted" or "taken over" in text:
        return "asked"
    return cause_of_error(text)


def cause_of_error(text: str, outer: str | None = None) -> str:
    """`infrastructure`, `user` or `asked`.

    Args:
        text: what was said of the error.
        outer: its type where `text` names none, or that of what was raised about it. Without any type no rank could say what
            happened, because Ray lost them or the store was away.
    """
    raised = read_failure(text)
    error, said = error_of(text) or outer, text if raised is None else raised.said
    if error in _OF_WISHES:
        return "asked"
    machines = error is None or error in _OF_MACHINES | _OF_SERVERS or is_lost(error)
    return "infrastructure" if machines or is_broken_group(error or "", said) else "user"


def is_lost(error: str) -> bool:
    """An exception of this type says that a process or machine is gone."""
    return error in _LOST_PARTS


def is_broken_group(error: str, said: str) -> bool:
    """So speak the ranks that live on of one that died."""
    return error in _OF_GROUPS or (
        error in ("RuntimeError", "OSError") and _BROKEN_GROUP.search(said) is not None
    )
