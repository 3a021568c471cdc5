"""Prefect server, S3 server and worker on this machine: started in the background, ended by the pids they left."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from deployments.bringing_back import BROUGHT_BACK
from deployments.local_s3 import ACCESS, BUCKET
from deployments.server_libraries import refuse_unfit
from ray_workers.store.errors import InvalidInputError, PawlError
from ray_workers.store.opening import normalise_url

__all__ = ["LocalStack", "Part"]

_START_LIMIT_S = 240.0
_END_LIMIT_S = 20.0
_ANSWER_LIMIT_S = 60.0
_HERE = {"127.0.0.1", "localhost"}
_LEASES = "prefect.server.concurrency.lease_storage.filesystem"
_STORAGE_BLOCK = "/block_types/slug/pawl-storage/block_documents/name/main"
_started: dict[int, subprocess.Popen[bytes]] = {}
"""By this process, which is their parent and must reap them."""
_PARTS = ("worker", "server", "s3")
"""In the order in which they end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One background process: its pid file holds pid and start time, so that a pid used again is nobody's."""

    folder: Path
    name: str

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def running(self) -> psutil.Process | None:
        try:
            pid, started = self._pid_file.read_text().split()
            found = psutil.Process(int(pid))
            same = abs(found.create_time() - float(started)) < 1
        except (OSError, ValueError, psutil.NoSuchProcess):
            return None
        return found if same and found.status() != psutil.STATUS_ZOMBIE else None

    def start(self, command: list[str], env: Mapping[str, str], cwd: Path) -> None:
        """Start it in the background, its output in its log."""
        with self.log.open("ab") as out:
            process = subprocess.Popen(  # noqa: S603 - our own programs
                command, cwd=cwd, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        _started[process.pid] = process
        started = psutil.Process(process.pid).create_time()
        self._pid_file.write_text(f"{process.pid} {started}")

    def end(self) -> bool:
        """End it and everything below it; whether it was running."""
        found = self.running()
        if found is not None:
            everyone = [*found.children(recursive=True), found]
            _signal(everyone, signal.SIGTERM)
            _, left = psutil.wait_procs(everyone, _END_LIMIT_S)
            _signal(left, signal.SIGKILL)
            psutil.wait_procs(left, _END_LIMIT_S)
        for pid in [pid for pid, process in _started.items() if process.poll() is not None]:
            del _started[pid]
        self._pid_file.unlink(missing_ok=True)
        return found is not None

    @property
    def _pid_file(self) -> Path:
        return self.folder / f"{self.name}.pid"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStack:
    """All of it, in one folder.

    Args:
        project: where flows run, and where user code is imported from.
        folder: for pid files, logs and data; kept when the stack ends.
        port: of the Prefect server.
        with_s3: start Ceph's gateway; otherwise versions go into a folder.
        tell: takes a line for each thing that was done.
    """

    project: Path
    folder: Path
    port: int = 4200
    with_s3: bool = True
    tell: Callable[[str], None] = field(repr=False)

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def shell_file(self) -> Path:
        """To be sourced: the server, the storage and its keys, as a shell's environment."""
        return self.folder / "env.sh"

    @property
    def ui_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Start what does not run, and set the server up. Raises `PawlError` naming the log of what did not start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        storage, keys = self._start_s3() if self.with_s3 else (self._folder_store, {})
        self._start_server()
        elsewhere = self._users_storage()
        self.tell(
            "setting up blocks, work pool, automations, deployments; runs left behind are watched first …"
        )
        self._setup([] if elsewhere else ["--storage", storage], keys)
        self._start_worker()
        if elsewhere:
            self.tell(f"pawl-storage/main is yours and stays as it is: {elsewhere}")
            self._write_shell(None, {})
        else:
            self._write_shell(storage, keys)

    def down(self) -> list[str]:
        """End everything that runs; the names of it. Data stays."""
        return [name for name in _PARTS if self._part(name).end()]

    def status(self) -> dict[str, bool]:
        return {name: self._part(name).running() is not None for name in _PARTS}

    def _start_s3(self) -> tuple[str, dict[str, str]]:
        part, access = self._part("s3"), self.folder / "s3" / ACCESS
        if part.running() is None:
            access.unlink(missing_ok=True)
            part.start(
                [sys.executable, "-P", "-m", "deployments.local_s3", str(self.folder / "s3")], {}, self.project
            )  # fmt: skip
        self._wait(part, access.exists)
        keys: dict[str, str] = json.loads(access.read_text())
        self.tell(f"S3 server at {keys['AWS_ENDPOINT_URL']}, bucket {BUCKET}; keys in {access}")
        return f"s3://{BUCKET}", keys

    def _start_server(self) -> None:
        part = self._part("server")
        if part.running() is None:
            if self._answers():
                raise InvalidInputError(
                    f"Something else answers at {self.api_url}: end it, or choose another --port."
                )
            refuse_unfit()
            part.start(
                [sys.executable, "-P", "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)],
                {
                    **self._env(), "PREFECT_UI_API_URL": self.api_url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                    # In memory they end with the server, and Prefect then ends every run of a deployment with a limit.
                    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": _LEASES,
                },
                self.project,
            )  # fmt: skip
        self._wait(part, self._answers)
        self.tell(f"Prefect server at {self.ui_url}")

    def _users_storage(self) -> str | None:
        """Where the block pawl-storage/main points, unless to a storage of this stack's; None without a block."""
        answer = httpx.get(f"{self.api_url}{_STORAGE_BLOCK}", timeout=_ANSWER_LIMIT_S)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        held = answer.raise_for_status().json()["data"]
        url, host = str(held.get("url")), httpx.URL(held.get("endpoint_url") or "").host
        in_folder = url == normalise_url(self._folder_store)
        in_bucket = url == f"s3://{BUCKET}" and host in _HERE
        changed = any(held.get(field) for field in ("root", "credentials_block", "encryption"))
        return None if (in_folder or in_bucket) and not changed else url

    @property
    def _folder_store(self) -> str:
        return str(self.folder / "store")

    def _setup(self, options: list[str], keys: Mapping[str, str]) -> None:
        command = [str(Path(sys.executable).with_name("pawl")), "setup", *options]
        done = subprocess.run(  # noqa: S603 - our own program
            command, cwd=self.project, env={**os.environ, **self._env(), **keys}, capture_output=True, text=True,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            raise PawlError(f"pawl setup failed: {(done.stderr or done.stdout).strip()[-2000:]}")
        for line in done.stdout.splitlines():
            if line.startswith(BROUGHT_BACK):
                self.tell(line)

    def _start_worker(self) -> None:
        part = self._part("worker")
        if part.running() is None:
            # without the keys in its environment: flows get them from the block, as on any other machine
            part.start(
                [sys.executable, "-P", "-m", "prefect", "worker", "start", "--pool", "pawl"],
                {**self._env(), "PREFECT_WORKER_QUERY_SECONDS": "3"},
                self.project,
            )
        self.tell(f"worker for the pool pawl; its log is {part.log}")

    def _write_shell(self, storage: str | None, keys: Mapping[str, str]) -> None:
        values = {"PREFECT_API_URL": self.api_url, **keys}
        if storage is not None:
            values["PAWL_STORAGE"] = storage
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in values.items()]
        self.shell_file.unlink(missing_ok=True)
        with os.fdopen(os.open(self.shell_file, os.O_CREAT | os.O_WRONLY, 0o600), "w") as out:
            out.writelines(lines)

    def _env(self) -> dict[str, str]:
        return {"PREFECT_API_URL": self.api_url, "PREFECT_HOME": str(self.folder / "prefect")}

    def _part(self, name: str) -> Part:
        return Part(folder=self.folder, name=name)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.api_url}/health", timeout=2).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _wait(self, part: Part, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        while not ready():
            if part.running() is None or time.monotonic() > deadline:
                tail = part.log.read_text(errors="replace")[-1500:]
                raise PawlError(f"The {part.name} did not start; {part.log} ends with:\n{tail}")
            time.sleep(0.3)


def _signal(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
