"""Following a training that runs as a Ray job, to its end: events told, keys handed over, its error raised as it was.

Plain code over `JobServer`. The job needs none of this to go on: whoever follows may die and another follow later.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ray_workers.job_lines import JobLine, error_of, event_of
from ray_workers.job_spec import credentials_letter
from ray_workers.messages import PawlEvent
from ray_workers.ray_jobs import JobServer
from ray_workers.sealed import seal
from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import (
    ClusterUnavailableError,
    InvalidInputError,
    PawlError,
    TrainingFailedError,
)

__all__ = ["LETTER", "Followed", "Follower", "letter_name", "stop_and_wait"]

LETTER = "pawl.letter"
_TAKE_S = 0.5
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def letter_name(job: str) -> str:
    """The job that carries the sealed keys for `job` in its metadata; it runs nothing."""
    return f"{job}-keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """Which job, and what its follower brings along."""

    name: str
    keys: S3Credentials | None
    """Of the store, for a job that asks for them."""
    on_event: Callable[[PawlEvent], None]
    still_ours: Callable[[], None]
    """Raises when the attempt belongs to somebody else by now; asked every few seconds."""
    patience_s: float = 600.0
    """How long the job server may be silent, or refuse the token that it took before."""
    ask_every_s: float = 3.0
    last_lines_s: float = 10.0
    """How long the log of a job that has ended may be silent before nothing more is expected of it."""


class Follower:
    def __init__(self, server: JobServer, job: Followed) -> None:
        self._server = server
        self._job = job
        self._end: JobLine | None = None
        self._ended: str | None = None
        """The job's last status, once it has ended."""
        self._asked = 0.0
        self._heard = time.monotonic()
        self._answered = False
        """The job server has taken this process's token."""

    def follow(self) -> None:
        """Return when the training completed.

        Raises:
            ClusterUnavailableError: the job server is silent, or refuses the token that it took before, for longer than
                the patience; the job may go on.
            InvalidInputError: it refuses the token of this process from the first.
            TrainingFailedError: the job's driver died, or the cluster has forgotten it.
            PawlError: what ended the training, if the job could still say so; or what `still_ours` raised.
        """
        end = self._until_end()
        if end is None and self._ended == "SUCCEEDED":
            return  # its driver exits with 0 only then, whatever became of the log
        if end is None:
            raise TrainingFailedError(
                f"The driver of Ray job {self._job.name} ended without a last word: it was killed, or its node was lost. "
                "Its log is on the Ray dashboard."
            )
        error = error_of(end)
        if error is not None:
            raise error

    def _until_end(self) -> JobLine | None:
        with self._server.log(self._job.name) as log:
            last_lines_until = float("inf")
            while self._end is None and time.monotonic() < last_lines_until:
                lines = log.take(_TAKE_S)
                self._hear(lines)
                if self._has_ended() and (lines or last_lines_until == float("inf")):
                    last_lines_until = time.monotonic() + self._job.last_lines_s
        return self._end

    def _has_ended(self) -> bool:
        status = self._status()
        if status in _ENDED:
            self._ended = status
        return self._ended is not None

    def _hear(self, lines: list[JobLine]) -> None:
        for line in lines:
            if line.kind == "event":
                self._job.on_event(event_of(line))
            elif line.kind == "letter_box":
                self._hand_over(str(line.content.get("public")))
            elif line.kind == "end":
                self._end = line

    def _hand_over(self, public: str) -> None:
        if self._job.keys is None:
            return
        letter = seal(credentials_letter(self._job.keys), public)
        try:
            self._server.submit(letter_name(self._job.name), "true", {}, {LETTER: letter})
        except InvalidInputError as error:
            # The job's log came from the same server: the next try, which reads it anew, may hand them over.
            raise _refused_now(error) from error

    def _status(self) -> str | None:
        """The job's status now and then; None in between, and while the server is silent or refuses."""
        now = time.monotonic()
        if now - self._asked < self._job.ask_every_s:
            return None
        self._asked = now
        self._job.still_ours()
        try:
            status = self._server.status(self._job.name)
        except (ClusterUnavailableError, InvalidInputError) as error:
            self._bear(error, now)
            return None
        self._heard, self._answered = now, True
        if status is None:
            raise TrainingFailedError(
                f"The Ray cluster does not know job {self._job.name} any more: its head was restarted."
            )
        return status

    def _bear(self, error: PawlError, now: float) -> None:
        """Raise unless it may pass: a server that took the token refuses it for a while when its head is renewed."""
        refused = isinstance(error, InvalidInputError)
        if refused and not self._answered:
            raise error
        if now - self._heard > self._job.patience_s:
            raise _refused_now(error) if refused else error


def _refused_now(error: PawlError) -> ClusterUnavailableError:
    return ClusterUnavailableError(
        f"The Ray job server took the token of this process before, and refuses it now: {error.message}"
    )


def stop_and_wait(server: JobServer, name: str, timeout_s: float) -> bool:
    """Stop a job; whether it ended in time."""
    deadline = time.monotonic() + timeout_s
    try:
        server.stop(name)
        while time.monotonic() < deadline:
            if server.status(name) not in ("PENDING", "RUNNING"):
                return True
            time.sleep(_TAKE_S)
    except PawlError:
        return False
    return False
