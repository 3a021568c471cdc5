"""A real Prefect server, shared by the session, and a real process worker."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from ray_workers.store.opening import StorageTarget
from tests.integration.harness import PREFECT, StoredRun, start_pawl, train_arguments, wait_until

POOL = "pawl-test"

TRACED = '''
"""The digits loop as a user's own module: it writes down each step, and raises once if asked to."""
import os
from pathlib import Path

from ray_workers.loops import digits

_step = digits.step


def train_loop(config):
    config = dict(config)
    trace = Path(config.pop("trace"))
    raise_at = config.pop("raise_at", 0)
    rank = os.environ.get("RANK", "0")
    done = 0

    def step(*parts):
        nonlocal done
        done += 1
        marker = trace.with_suffix(".raised")
        if done == raise_at and rank == "0" and not marker.exists():
            marker.touch()
            raise RuntimeError("planted failure")
        with trace.open("a") as out:
            out.write(f"{rank} {done}\\n")
        return _step(*parts)

    digits.step = step
    digits.train_loop(config)
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefectServer:
    api_url: str
    home: Path

    @property
    def env(self) -> dict[str, str]:
        return {"PREFECT_API_URL": self.api_url, "PREFECT_HOME": str(self.home)}

    def cli(self, *arguments: str) -> str:
        """Run `prefect ARGUMENTS` against this server; its output."""
        done = subprocess.run(
            [PREFECT, "--no-prompt", *arguments], env={**os.environ, **self.env}, capture_output=True, text=True,
            timeout=120, check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return done.stdout


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    home = tmp_path_factory.mktemp("prefect-home")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = PrefectServer(api_url=f"http://127.0.0.1:{port}/api", home=home)
    log = (home / "server.log").open("wb")
    process = subprocess.Popen(
        [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "PREFECT_HOME": str(home)}, stdout=log, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        wait_until(lambda: _healthy(server.api_url), 180, "a healthy Prefect server")
        yield server
    finally:
        _end_group(process)
        log.close()


@pytest.fixture(scope="session")
def prefect_worker(
    prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A process worker that serves the pool `POOL`; yields its log file."""
    prefect_server.cli("work-pool", "create", POOL, "--type", "process")
    path = tmp_path_factory.mktemp("worker") / "worker.log"
    log = path.open("wb")
    process = subprocess.Popen(
        [PREFECT, "worker", "start", "--pool", POOL], env={**os.environ, **prefect_server.env, "PREFECT_WORKER_QUERY_SECONDS": "2"},
        stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield path
    finally:
        _end_group(process)
        log.close()


@pytest.fixture(scope="session")
def uninterrupted(
    prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Shard digests at the end of the small digits run when nothing happens to it."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = start_pawl(
        folder, *train_arguments("whole", "--storage", "store"), env=prefect_server.env
    )
    assert process.wait() == 0, process.output
    return StoredRun(target=StorageTarget(str(folder / "store")), run="whole").final_digests()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project folder with a loop of its own, `traced:train_loop`."""
    (tmp_path / "traced.py").write_text(TRACED)
    return tmp_path


def _healthy(api_url: str) -> bool:
    try:
        return bool(httpx.get(f"{api_url}/health", timeout=2).status_code == httpx.codes.OK)
    except httpx.HTTPError:
        return False


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started, and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(15)
