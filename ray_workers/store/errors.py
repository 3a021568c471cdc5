"""Every error that Pawl raises on purpose, in one tree, grouped by what the caller can do.

    PawlError
    ├── RetryableError             the same call may succeed later
    │   ├── StoreUnavailableError      timeout, 5xx, cut connection
    │   │   └── OutcomeUnknownError        a record may stand in the log, or may yet appear there
    │   ├── ClusterUnavailableError    the Ray cluster does not answer; what trains there may go on
    │   ├── TrainingFailedError        the loop raised, or a worker died
    │   ├── AttemptInterruptedError    a signal, a time limit or a departing node ended the attempt
    │   ├── RankHungError              ranks took no step for far too long
    │   ├── UploadFailedError          one shard could not be stored in the tries allowed
    │   └── FailureBudgetSpentError    so many saves failed in a row that the attempt must end
    ├── ConflictError              somebody else was first; fold again, then decide
    │   ├── ObjectExistsError          create-only put on a key that exists
    │   ├── RuleRefusedError           the log's rules refuse this record on the present state
    │   ├── FenceLostError             a newer attempt owns the run; never retried by itself
    │   └── RunBusyError               another attempt still runs under this name
    ├── MissingError               it is not there
    │   ├── ObjectNotFoundError
    │   ├── RunNotFoundError
    │   ├── VersionNotFoundError
    │   └── VersionGoneError           condemned meanwhile: choose another, nothing is damaged
    ├── DamageError                stored bytes are not what was written
    │   ├── DigestMismatchError
    │   └── MalformedObjectError       bytes that are no valid record, manifest or shard
    ├── RefusedError               a person must change something first
    │   ├── StoreRefusedError          the store cannot, or may not, do what Pawl needs
    │   ├── NewerFormatError           written by a newer Pawl
    │   ├── StateMismatchError         the stored state does not fit the model
    │   └── InvalidInputError          an argument, name or configuration value is wrong
    └── InternalError              a bug in Pawl

`kind` is a stable string per class, for scripts. Every error survives pickling, because they cross process boundaries.
A message says what happened, to which key or name, and what to do. No message holds a credential.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "AttemptInterruptedError",
    "ClusterUnavailableError",
    "ConflictError",
    "DamageError",
    "DigestMismatchError",
    "FailureBudgetSpentError",
    "FenceLostError",
    "InternalError",
    "InvalidInputError",
    "MalformedObjectError",
    "MissingError",
    "NewerFormatError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "OutcomeUnknownError",
    "PawlError",
    "RankHungError",
    "RefusedError",
    "RetryableError",
    "RuleRefusedError",
    "RunBusyError",
    "RunNotFoundError",
    "StateMismatchError",
    "StoreRefusedError",
    "StoreUnavailableError",
    "TrainingFailedError",
    "UploadFailedError",
    "VersionGoneError",
    "VersionNotFoundError",
]


class PawlError(Exception):
    """Base of the tree.

    Args:
        message: one sentence or more for a person: what happened, to which thing, what to do.
        details: plain values for programs (`error.details["fence"]`); never a secret.
    """

    kind: ClassVar[str] = "pawl"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.details)


def _rebuild(cls: type[PawlError], message: str, details: dict[str, Any]) -> PawlError:
    return cls(message, **details)


class RetryableError(PawlError):
    kind = "retryable"


class StoreUnavailableError(RetryableError):
    kind = "store_unavailable"


class ClusterUnavailableError(RetryableError):
    """Details: `address`."""

    kind = "cluster_unavailable"


class OutcomeUnknownError(StoreUnavailableError):
    """Whoever catches it must neither report "not written" nor undo anything. Details: `slot`, where it would stand."""

    kind = "outcome_unknown"


class TrainingFailedError(RetryableError):
    """Details, when known: `rank`, `node` and `error` (the exception's type name) of the worker that failed.

    `no_workers` is true when Ray could not start them, or took their node away.
    """

    kind = "training_failed"


class AttemptInterruptedError(RetryableError):
    """Details: `cause`, what asked for the end; `step` and `committed_step` where it ended, when known."""

    kind = "attempt_interrupted"


class RankHungError(RetryableError):
    """Details: `ranks` that stood still, and the `step` after which they did."""

    kind = "rank_hung"


class UploadFailedError(RetryableError):
    kind = "upload_failed"


class FailureBudgetSpentError(RetryableError):
    kind = "failure_budget_spent"


class ConflictError(PawlError):
    kind = "conflict"


class ObjectExistsError(ConflictError):
    kind = "object_exists"


class RuleRefusedError(ConflictError):
    kind = "rule_refused"


class FenceLostError(ConflictError):
    """Details: `fence` (ours), `by` (the newer attempt's start record, as a dict), when known."""

    kind = "fence_lost"


class RunBusyError(ConflictError):
    kind = "run_busy"


class MissingError(PawlError):
    kind = "missing"


class ObjectNotFoundError(MissingError):
    kind = "object_not_found"


class RunNotFoundError(MissingError):
    kind = "run_not_found"


class VersionNotFoundError(MissingError):
    kind = "version_not_found"


class VersionGoneError(MissingError):
    kind = "version_gone"


class DamageError(PawlError):
    """Details: `key`, the object whose bytes are bad."""

    kind = "damage"


class DigestMismatchError(DamageError):
    kind = "digest_mismatch"


class MalformedObjectError(DamageError):
    kind = "malformed_object"


class RefusedError(PawlError):
    kind = "refused"


class StoreRefusedError(RefusedError):
    kind = "store_refused"


class NewerFormatError(RefusedError):
    kind = "newer_format"


class StateMismatchError(RefusedError):
    kind = "state_mismatch"


class InvalidInputError(RefusedError):
    """Details: `unfit_workers`, the number of workers, when it is that which is wrong."""

    kind = "invalid_input"


class InternalError(PawlError):
    kind = "internal"
