"""The driver of a training that runs as a Ray job: `python -m ray_workers.job_driver`, on the cluster.

It does what `trainer.train` does in a flow's process, tells its events in its log, and closes its attempt itself: the
flow that started it may be gone by then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import ray
from ray.job_submission import JobSubmissionClient

from ray_workers.adopting import base_fence, job_name
from ray_workers.attempt_errors import recorded_end
from ray_workers.entrypoints import add_code_dir
from ray_workers.following import LETTER, letter_name
from ray_workers.job_lines import LineWriter
from ray_workers.job_spec import JobSpec, open_letter
from ray_workers.ray_cluster import NAMESPACE
from ray_workers.sealed import LetterBox
from ray_workers.store.attempts import end_attempt
from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import PawlError, RetryableError
from ray_workers.store.log import RunLog
from ray_workers.trainer import train
from ray_workers.training_job import TrainingJob

__all__ = ["ENTRYPOINT", "SPEC_VARIABLE", "STOP_GRACE_S", "main"]

ENTRYPOINT = "python -m ray_workers.job_driver"
SPEC_VARIABLE = "PAWL_JOB"
STOP_GRACE_S = 30
"""Between SIGTERM and SIGKILL when the job is stopped; whole seconds, Ray takes no others."""
_LETTER_PATIENCE_S = 300.0


class _Stopped(BaseException):
    """SIGTERM: somebody stopped the job."""


def main() -> int:
    """The job's exit code: 0 when the training was completed."""
    lines = LineWriter(sys.stdout)
    error: Exception | None = None
    try:
        with _sigterm_raises():
            _drive(lines)
    except _Stopped:
        error = RetryableError("The Ray job was stopped before the training was done.")
    except Exception as raised:  # noqa: BLE001 - the outermost frame: whatever it is, the follower must hear of it
        error = raised
    lines.end(error)
    return 0 if error is None else 1


def _drive(lines: LineWriter) -> None:
    spec = JobSpec.decode(os.environ[SPEC_VARIABLE], add_code_dir(None))
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    context = ray.init(namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    signal.signal(signal.SIGTERM, _raise_stopped)  # `ray.init` took it
    name = job_name(spec.job.run_id, spec.job.fence)
    keys = _ask_for_keys(lines, str(context.dashboard_url), name) if spec.wants_keys else None
    job = spec.with_keys(keys)
    with _attempt_closed(job):
        train(job, on_event=lines.event)


def _ask_for_keys(lines: LineWriter, dashboard: str, name: str) -> S3Credentials:
    box = LetterBox()
    lines.letter_box(box.public)
    client = JobSubmissionClient(f"http://{dashboard}")
    deadline = time.monotonic() + _LETTER_PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(RuntimeError):  # not there yet
            metadata: dict[str, Any] = client.get_job_info(letter_name(name)).metadata or {}
            if LETTER in metadata:
                return open_letter(box.open(metadata[LETTER]))
        time.sleep(0.5)
    raise RetryableError(
        f"The store's keys did not arrive within {_LETTER_PATIENCE_S:.0f} s: the flow that started this job is gone."
    )


@contextlib.contextmanager
def _attempt_closed(job: TrainingJob) -> Iterator[None]:
    """Whatever ends the training, the attempt's end is in the log; a fence that was lost is not ours to close."""
    try:
        yield
    except BaseException as error:
        _close(job, *_outcome(error))
        raise
    else:
        _close(job, "completed", None)


def _outcome(error: BaseException) -> tuple[str, str]:
    if not isinstance(error, Exception):
        return "interrupted", str(error) or "cancelled: the Ray job was stopped"
    return recorded_end(error)


def _close(job: TrainingJob, outcome: str, reason: str | None) -> None:
    with contextlib.suppress(PawlError):  # the follower, or the next attempt, settles it
        log = RunLog(job.target.open().store, job.run, by=job.by, patience_s=20.0)
        mine = log.state.open_fence
        if mine is not None and base_fence(log.state, mine) == job.fence:
            end_attempt(log, mine, outcome, reason)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, _raise_stopped)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_stopped(_: int, __: FrameType | None) -> None:
    raise _Stopped


if __name__ == "__main__":
    sys.exit(main())
