"""A Ray cluster that is nobody's child: `ray start`, in a session of its own, as an operator would start it.

It knows nothing of this process's environment but what is given.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from tests.support.process_family import Family

__all__ = ["RayHead", "clean_environment"]

RAY = str(Path(sys.executable).with_name("ray"))
_PATIENCE_S = 300.0


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """An environment without keys and servers of ours; `python` is the interpreter of the tests."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "PYTHONPATH") if name in os.environ}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {
        "PATH": path,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        **kept,
        **extra,
    }


@dataclass(slots=True)
class RayHead:
    """One head node; `running()` starts it and takes it away."""

    folder: Path
    cpus: int
    env: Mapping[str, str]
    port: int = 0
    dashboard_port: int = 0
    process: subprocess.Popen[bytes] | None = None
    family: Family = field(default_factory=Family)
    _ports: list[int] = field(default_factory=list)

    @classmethod
    @contextmanager
    def running(cls, *, cpus: int = 2, env: Mapping[str, str] | None = None) -> Iterator[RayHead]:
        # Sockets lie below this folder, and their paths must be short.
        folder = Path(tempfile.mkdtemp(prefix="pr-"))
        head = cls(folder=folder, cpus=cpus, env=clean_environment(env or {}))
        head.port, head.dashboard_port, *head._ports = free_ports(5)
        try:
            head.start()
            yield head
        finally:
            head.kill()
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def jobs_address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def start(self) -> None:
        """Start it, and return when its job server answers."""
        client, agent, grpc = self._ports
        command = [
            RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={self.port}",
            f"--dashboard-port={self.dashboard_port}", "--dashboard-host=127.0.0.1", "--include-dashboard=true",
            f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}",
            f"--dashboard-agent-grpc-port={grpc}", "--min-worker-port=0", "--max-worker-port=0",
            f"--num-cpus={self.cpus}", "--object-store-memory=150000000", f"--temp-dir={self.folder / 'ray'}",
            "--disable-usage-stats",
        ]  # fmt: skip
        with (self.folder / "head.log").open("ab") as out:
            self.process = subprocess.Popen(
                command, env={**self.env, **self.family.environment}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True, cwd=self.folder,
            )  # fmt: skip
        deadline = time.monotonic() + _PATIENCE_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "head.log").read_text(errors="replace")[-3000:]
                raise AssertionError(f"the Ray head did not come up:\n{said}")
            time.sleep(0.2)

    def drain(self, *, deadline_s: int) -> None:
        """Announce that the head's node goes in so many seconds, as an autoscaler or a cloud does."""
        nodes = httpx.get(f"{self.jobs_address}/api/v0/nodes", timeout=10).json()
        node_id = nodes["data"]["result"]["result"][0]["node_id"]
        subprocess.run(
            [RAY, "drain-node", f"--address={self.address}", f"--node-id={node_id}",
             "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=test",
             f"--deadline-remaining-seconds={deadline_s}"],
            env=dict(self.env), check=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def terminate(self) -> None:
        """SIGTERM to `ray start --block`, as an eviction of its pod: Ray drains the node for half a minute and ends."""
        if self.process is not None:
            self.process.terminate()

    def kill(self) -> None:
        """`kill -9` of the head and of every process on its node, as when the machine goes."""
        if self.process is None:
            return
        self.family.kill()
        self.process.wait(10)
        self.process = None

    def actors(self, kind: str) -> list[psutil.Process]:
        """Processes whose title says that they are `kind`; Ray names its workers so."""
        return [p for p in self.family.members() if _title(p).startswith(f"ray::{kind}")]

    def _answers(self) -> bool:
        try:
            # 401 is an answer too: a cluster with a token
            status = httpx.get(f"{self.jobs_address}/api/version", timeout=2).status_code
        except httpx.HTTPError:
            return False
        return status in (httpx.codes.OK, httpx.codes.UNAUTHORIZED)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
        return ""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
