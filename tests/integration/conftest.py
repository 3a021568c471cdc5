"""A real Prefect server, shared by the session, and a real process worker."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

import flows.train as flow_module
from ray_workers.store.opening import StorageTarget
from tests.integration.harness import (
    FAMILIES,
    PREFECT,
    StoredRun,
    kill_families,
    start_pawl,
    train_arguments,
    wait_until,
)
from tests.integration.traced_loop import write_traced_loop
from tests.integration.without_training import LOOP, Calls

POOL = "pawl-test"


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


@pytest.fixture(autouse=True)
def nothing_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """A failed test leaves no training behind that would starve the next one, Ray's daemons included.

    Nor does any test leave automations on the shared server: they would call a later test's training dead.
    """
    before = len(FAMILIES)
    yield
    kill_families(before)
    if "prefect_server" in request.fixturenames:
        _remove_automations(request.getfixturevalue("prefect_server").api_url)


def _remove_automations(api_url: str) -> None:
    """Until none is left: a server on SQLite answers 503 while another process writes."""

    def removed() -> bool:
        answer = client.post("/automations/filter", json={"limit": 200})
        found = answer.json() if answer.is_success else None
        for automation in found or ():
            client.delete(f"/automations/{automation['id']}")
        return found == []

    with httpx.Client(base_url=api_url, timeout=60) as client:
        wait_until(removed, what="a server without automations")


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
        [PREFECT, "worker", "start", "--pool", POOL],
        # unbuffered: a test reads what a flow run has said as soon as it has
        env={**os.environ, **prefect_server.env, "PREFECT_WORKER_QUERY_SECONDS": "2", "PYTHONUNBUFFERED": "1"},
        stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield path
    finally:
        _end_group(process)
        log.close()


def train_whole(folder: Path, server: PrefectServer) -> list[str]:
    """Train the small digits run, named `whole`, without a failure; the shard digests of its end."""
    before = len(FAMILIES)
    try:
        process = start_pawl(
            folder, *train_arguments("whole", "--storage", "store"), env=server.env
        )
        assert process.wait() == 0, process.output
    finally:
        kill_families(before)
    return StoredRun(target=StorageTarget(str(folder / "store")), run="whole").final_digests()


@pytest.fixture(scope="session")
def uninterrupted_store(
    prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The store of the small digits run, `whole`, when nothing happens to it; trained once for all test processes."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    whole, done = shared / "whole", shared / "whole.done"
    with (shared / "whole.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(whole, ignore_errors=True)
            whole.mkdir()
            train_whole(whole, prefect_server)
            done.touch()
    return whole / "store"


@pytest.fixture(scope="session")
def uninterrupted(uninterrupted_store: Path) -> list[str]:
    """Shard digests at the end of that run."""
    return StoredRun(target=StorageTarget(str(uninterrupted_store)), run="whole").final_digests()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project folder with a loop of its own, `traced:train_loop`."""
    write_traced_loop(tmp_path)
    return tmp_path


@pytest.fixture
def calls(
    prefect_server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Calls]:
    """A project folder with a loop, and the flow of this process on the server, without Ray."""
    (tmp_path / "pawl_project.py").write_text(LOOP)
    (tmp_path / "pawl_broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name, value in prefect_server.env.items():
        monkeypatch.setenv(name, value)
    before = set(sys.modules)
    made = Calls()
    monkeypatch.setattr(flow_module, "run_training", made)
    with temporary_settings({PREFECT_API_URL: prefect_server.api_url}):
        yield made
    for name in set(sys.modules) - before:
        if name.startswith("pawl_"):
            del sys.modules[name]


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
