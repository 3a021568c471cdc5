"""A Ray cluster whose nodes are network namespaces of this machine, joined by a bridge: a cable can be pulled.

Needs root and iproute2. Everything is made under names of its own and removed at the end; files are shared by all nodes,
as with a network file system, so a node that is cut off still reaches a store that is a folder. Shared memory is each
node's own, as on machines of their own: the next attempt's agents remove what an overtaken one staged beside them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from tests.support.ray_head import RAY, clean_environment

__all__ = ["NetNodes"]

_PATIENCE_S = 240.0
_HEAD_PORT, _JOBS_PORT = 6379, 8265
_NODE = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "900",
    "GLOO_SOCKET_IFNAME": "eth0",
}
"""A raylet that lost its head stays, so that what runs on its node is a zombie and not simply dead. And the ranks must
meet over the cable: gloo would ask what the name of the machine stands for."""


@dataclass(slots=True)
class NetNodes:
    """Node 0 is the head, with no CPU of its own; nodes 1 to `count` have one CPU each."""

    folder: Path
    count: int
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    @contextmanager
    def running(cls, count: int) -> Iterator[NetNodes]:
        nodes = cls(folder=Path(tempfile.mkdtemp(prefix="pn-")), count=count)
        nodes.remove()
        try:
            nodes._lay_cables()
            nodes._start()
            yield nodes
        finally:
            nodes._kill()
            nodes.remove()
            shutil.rmtree(nodes.folder, ignore_errors=True)

    @property
    def jobs_address(self) -> str:
        return f"http://{_ip(0)}:{_JOBS_PORT}"

    def cut(self, node: int) -> None:
        """Pull the cable of one node."""
        _ip_tool("link", "set", _cable(node), "down")

    def join(self, node: int) -> None:
        _ip_tool("link", "set", _cable(node), "up")

    def actors(self, node: int, kind: str) -> list[psutil.Process]:
        """Processes of `kind` on one node; Ray names its workers so."""
        found = []
        for pid in _ip_tool("netns", "pids", _space(node)).split():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(pid))
                if " ".join(process.cmdline()).startswith(f"ray::{kind}"):
                    found.append(process)
        return found

    def remove(self) -> None:
        for node in range(self.count + 1):
            subprocess.run(["ip", "netns", "del", _space(node)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", _BRIDGE], capture_output=True, check=False)

    def _lay_cables(self) -> None:
        _ip_tool("link", "add", _BRIDGE, "type", "bridge")
        _ip_tool("addr", "add", f"{_NET}.1/24", "dev", _BRIDGE)
        _ip_tool("link", "set", _BRIDGE, "up")
        for node in range(self.count + 1):
            space = _space(node)
            _ip_tool("netns", "add", space)
            _ip_tool(
                "link", "add", _cable(node), "type", "veth", "peer", "name", "eth0", "netns", space
            )
            _ip_tool("link", "set", _cable(node), "master", _BRIDGE)
            _ip_tool("link", "set", _cable(node), "up")
            _ip_tool("-n", space, "addr", "add", f"{_ip(node)}/24", "dev", "eth0")
            _ip_tool("-n", space, "link", "set", "eth0", "up")
            _ip_tool("-n", space, "link", "set", "lo", "up")

    def _start(self) -> None:
        head = f"{_ip(0)}:{_HEAD_PORT}"
        self._ray(
            0, "--head", f"--port={_HEAD_PORT}", "--dashboard-host=0.0.0.0",
            f"--dashboard-port={_JOBS_PORT}", "--include-dashboard=true", "--num-cpus=0",
            f"--temp-dir={self.folder / 'ray'}",
        )  # fmt: skip
        self._wait(lambda: bool(self._nodes_alive()))
        for node in range(1, self.count + 1):
            self._join_cluster(node, head)

    def _join_cluster(self, node: int, head: str) -> None:
        """One after the other, and again when Ray gives up: its own start limit is half a minute."""

        def joined() -> bool:
            if self._processes[-1].poll() is not None:
                self._ray(node, f"--address={head}", "--num-cpus=1")
            return self._nodes_alive() == node + 1

        self._ray(node, f"--address={head}", "--num-cpus=1")
        self._wait(joined)

    def _ray(self, node: int, *options: str) -> None:
        command = [
            "ip", "netns", "exec", _space(node), "sh", "-c", _OWN_MEMORY, "sh",
            RAY, "start", "--block", "--disable-usage-stats",
            f"--node-ip-address={_ip(node)}", "--object-store-memory=100000000", *options,
        ]  # fmt: skip
        with (self.folder / f"node-{node}.log").open("ab") as out:
            self._processes.append(
                subprocess.Popen(
                    command, env=clean_environment(_NODE), stdin=subprocess.DEVNULL,
                    stdout=out, stderr=out, start_new_session=True, cwd=self.folder,
                )
            )  # fmt: skip

    def _nodes_alive(self) -> int:
        try:
            answer = httpx.get(f"{self.jobs_address}/nodes?view=summary", timeout=5).json()
        except (httpx.HTTPError, ValueError):
            return 0
        states = [node["raylet"].get("state") for node in answer["data"]["summary"]]
        return states.count("ALIVE")

    def _wait(self, ready: object) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not ready():  # type: ignore[operator]
            if time.monotonic() > deadline:
                logs = sorted(self.folder.glob("node-*.log"))
                said = "\n".join(f"--- {log.name}\n{log.read_text()[-1500:]}" for log in logs)
                raise AssertionError(f"the nodes did not come up:\n{said}")
            time.sleep(0.5)

    def _kill(self) -> None:
        for node in range(self.count + 1):
            listed = subprocess.run(
                ["ip", "netns", "pids", _space(node)], capture_output=True, text=True, check=False
            )
            for pid in listed.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        for process in self._processes:
            process.kill()
            process.wait(10)


_BRIDGE = "pawl-br"
_OWN_MEMORY = 'mount -t tmpfs -o size=512m pawl-shm /dev/shm && exec "$@"'
"""`ip netns exec` gives every command a mount namespace, so nobody else sees this."""
_NET = "10.213.77"


def _ip(node: int) -> str:
    return f"{_NET}.{10 + node}"


def _space(node: int) -> str:
    return f"pawl-{node}"


def _cable(node: int) -> str:
    return f"pawl-veth{node}"


def _ip_tool(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"ip {' '.join(arguments)}: {done.stderr}")
    return done.stdout
