"""A Prefect server of a command's own, when the user has none: where it lives, and starting it out of Ctrl-C's reach."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

from deployments.server_libraries import refuse_unfit

__all__ = ["HEARTBEAT_S", "prepare_prefect", "start_prefects_server"]

HEARTBEAT_S = 30
"""Seconds between the signs of life that a flow run of Pawl's gives; the shortest that Prefect has, whose own default is 180."""
_START_LIMIT_S = "90"


def prepare_prefect() -> None:
    """Settings of this process's flow run; without a Prefect server of the user's own, an ephemeral one beside the project.

    It beats as a deployed run does: Pawl's automations on that server would otherwise call it dead while it trains.
    """
    refuse_unfit("fastapi")  # it would only be said after the server's whole start limit
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(HEARTBEAT_S))
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", _START_LIMIT_S)
    configured = any(
        os.environ.get(name) for name in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE")
    )
    if not configured and not (Path.home() / ".prefect" / "profiles.toml").exists():
        os.environ["PREFECT_HOME"] = str(Path(".pawl/prefect").absolute())
    if not os.environ.get("PREFECT_API_URL"):
        # A server of ours for one command: it need not report to Prefect, and its start is quicker.
        os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    if home := os.environ.get("PREFECT_HOME"):
        # SQLite makes no folder, and its server says so only after its whole start limit.
        Path(home).mkdir(parents=True, exist_ok=True)


def start_prefects_server() -> None:
    """Start the ephemeral server, if there is to be one, so that Ctrl-C at the terminal does not reach it.

    A terminal sends SIGINT to all processes in front; the server must live to be told how the flow run ended. A process
    inherits which signals the thread that starts it has blocked.
    """
    from prefect.client.orchestration import get_client  # noqa: PLC0415 - takes seconds

    def start() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        with contextlib.suppress(Exception), get_client(sync_client=True):
            pass  # what is wrong with it the flow says, and better

    thread = threading.Thread(target=start, name="pawl-prefect-start", daemon=True)
    thread.start()
    thread.join()
