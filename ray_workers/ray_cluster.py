"""Starting or joining a Ray cluster, with the signal handlers that Ray replaces put back."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError

import ray_workers
from ray_workers.config import Scaling
from ray_workers.store.clock import epoch_seconds
from ray_workers.store.errors import ClusterUnavailableError, InvalidInputError

__all__ = [
    "NAMESPACE",
    "check_head",
    "daemons_out_of_reach",
    "draining_nodes",
    "end_train_controllers",
    "ray_cluster",
    "shipped_code",
]

NAMESPACE = "pawl"
_CONTROLLER = "TrainController"
"""The class of Ray Train's actor that `fit` waits for."""
_OBJECT_STORE_BYTES = 256 * 1024 * 1024
_STARTS = 3
_LISTENS_S = 10.0
_TOO_SLOW = "timed out during startup"
_EXCLUDED = [".git", ".venv", "pawl-store", ".pawl", "__pycache__"]
_SETUP_HOOK = "ray_workers.worker_setup.quiet"
_AUTHENTICATION_HELP = (
    "If the cluster asks for a token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, where the flow "
    "runs."
)


@contextlib.contextmanager
def ray_cluster(scaling: Scaling, code_dir: Path) -> Iterator[None]:
    """A connected Ray for the time of one training.

    An existing connection is used and left alone. A cluster started here ends here; one that was joined goes on.

    Args:
        scaling: the address to join, or none; how many CPUs a local cluster must offer.
        code_dir: the user's project folder, importable on every worker.

    Raises:
        InvalidInputError: its token was refused.
        ClusterUnavailableError: there is no cluster at the address now, or this machine is too busy to start one.
    """
    if ray.is_initialized():
        yield
        return
    with _handlers_kept():
        _connect(scaling, code_dir)
    try:
        yield
    finally:
        with _handlers_kept():
            ray.shutdown()


def draining_nodes() -> dict[str, float | None]:
    """Nodes that Ray is about to lose (drained, preempted, told SIGTERM), with the seconds left; None: not known.

    What Ray Train's own watcher reads: Ray has no public call for it. When it cannot be read nothing is draining.
    """
    try:
        found = ray._private.state.state.get_draining_nodes()  # noqa: SLF001
        now = epoch_seconds()
        return {node: int(at) / 1000 - now if at else None for node, at in found.items()}
    except Exception:  # noqa: BLE001 - of a private call anything may come
        return {}


def end_train_controllers() -> None:
    """Kill Ray Train's controllers of this process: whoever waits in `fit` then comes back with an error.

    To be called before Ray is left while a thread may still wait in `fit`: that thread would go on in a Ray that is gone,
    which ends the process at once, by `SIGSEGV` or by Ray itself. There is no public call for it; when it cannot be
    done nothing is.
    """
    with contextlib.suppress(Exception):  # of private calls anything may come
        worker: Any = ray._private.worker.global_worker  # noqa: SLF001
        found = ray._private.state.actors(job_id=worker.current_job_id)  # noqa: SLF001
        for name, actor in found.items():
            if actor["ActorClassName"] == _CONTROLLER and actor["State"] != "DEAD":
                worker.core_worker.kill_actor(ray.ActorID.from_hex(name), no_restart=True)


def _connect(scaling: Scaling, code_dir: Path) -> None:
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    common: dict[str, Any] = {
        "namespace": NAMESPACE,
        "log_to_driver": True,
        "configure_logging": False,
    }
    if scaling.ray_address is None:
        cpus = max(1, round(_workers_here(scaling) * scaling.cpus_per_worker + 0.499))
        _start_here(
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            runtime_env={
                "env_vars": {"PYTHONPATH": _python_path(code_dir)},
                "worker_process_setup_hook": _SETUP_HOOK,
            },
            **common,
        )
        return
    try:
        ray.init(address=scaling.ray_address, runtime_env=shipped_code(code_dir), **common)
    except (AuthenticationError, ConnectionError, TimeoutError) as error:
        if _is_about_the_token(error):
            raise InvalidInputError(
                f"The Ray cluster at {scaling.ray_address!r} refused this process's token. {_AUTHENTICATION_HELP}"
            ) from error
        raise _silent(scaling.ray_address, error) from error


def check_head(address: str) -> None:
    """Raise `ClusterUnavailableError` if nobody listens at `address`, like host:6379; `auto` is not looked at."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_LISTENS_S).close()
    except OSError as error:
        raise _silent(address, error) from error


def _is_about_the_token(error: BaseException) -> bool:
    """Of a token that the cluster refuses Ray speaks only in what caused its `ConnectionError`."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, AuthenticationError) or "authenticat" in str(at).lower():
            return True
        at = at.__cause__
    return False


def _silent(address: str, error: Exception) -> ClusterUnavailableError:
    return ClusterUnavailableError(
        f"No Ray cluster answers at {address!r}: {error}. {_AUTHENTICATION_HELP}", address=address
    )


def _workers_here(scaling: Scaling) -> int:
    """Of a range, as many as this machine has processors for."""
    if scaling.max_workers is None:
        return scaling.workers
    possible = int((os.cpu_count() or 1) // scaling.cpus_per_worker)
    return max(scaling.workers, min(scaling.max_workers, possible))


@contextlib.contextmanager
def daemons_out_of_reach() -> Iterator[None]:
    """What Ray starts meanwhile leads a session of its own, so that signals to this process's group do not reach it.

    Prefect's worker cancels a flow run by SIGTERM to the whole group. Ray's daemons would be gone at once, while the workers
    make their last save. They end with this process all the same: Ray ends them, or the kernel when it was killed; where the
    kernel does not (other systems than Linux), Ray itself needs them in the group. Ray has no option for it.
    """
    services: Any = ray._private.services  # noqa: SLF001
    kernel: Any = ray._private.utils  # noqa: SLF001
    start = services.ConsolePopen
    if kernel.detect_fate_sharing_support_linux():
        services.ConsolePopen = functools.partial(start, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = start


def _start_here(**settings: Any) -> None:
    """Start a cluster on this machine. Ray gives its node 30 seconds, which a crowded machine may need for its imports."""
    for _ in range(_STARTS):
        try:
            with daemons_out_of_reach():
                # "local": never the cluster that happens to run on this machine
                ray.init(address="local", **settings)
        except Exception as error:  # Ray raises no narrower type
            if _TOO_SLOW not in str(error):
                raise
            ray.shutdown()
        else:
            return
    raise ClusterUnavailableError(
        f"Ray's own node did not come up on this machine, {_STARTS} times 30 seconds long. Is something else using all "
        "its processors? It can be tried again."
    )


def shipped_code(code_dir: Path) -> dict[str, Any]:
    """The runtime environment of a cluster that others started: the user's project, and this very Pawl.

    No key is in it: Ray shows it to everybody who can see the dashboard.
    """
    return {
        "working_dir": str(code_dir),
        "py_modules": [str(Path(ray_workers.__file__).parent)],
        "excludes": _EXCLUDED,
        "worker_process_setup_hook": _SETUP_HOOK,
    }


def _python_path(code_dir: Path) -> str:
    inherited = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(part for part in (str(code_dir), inherited) if part)


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """`ray.init` and `fit` replace the handlers of SIGTERM and SIGINT; the orchestrator's must survive them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
