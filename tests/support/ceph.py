"""A real S3 server for the tests: Ceph's gateway over one monitor and one OSD, all on loopback, all in one folder.

The daemons are children of this process and run in the foreground, so each is ended by its own pid and none outlives
the session, even when the session is killed. Nothing of the machine's own Ceph configuration is read.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Literal, Self

from tests.support.ceph_config import ceph_conf
from tests.support.s3_server import S3Server

__all__ = ["CephCluster", "CephError", "missing_commands"]

_COMMANDS = (
    "ceph",
    "ceph-authtool",
    "ceph-mon",
    "ceph-osd",
    "monmaptool",
    "radosgw",
    "radosgw-admin",
    "setpriv",
)
_PATIENCE = 120.0
"""Seconds for one step of the start-up. It takes about one on an idle machine; two busy cores can be slow."""

_ALL_CAPABILITIES = (
    "--cap",
    "mon",
    "allow *",
    "--cap",
    "osd",
    "allow *",
    "--cap",
    "mgr",
    "allow *",
)
_DAEMONS = ("gateway", "osd", "mon")

Access = Literal["read-only", "no-delete"]


class CephError(RuntimeError):
    """The cluster did not do what the tests need; the message ends with what its daemons said."""


def missing_commands() -> list[str]:
    """Which of the needed programs are not installed here."""
    return [command for command in _COMMANDS if shutil.which(command) is None]


class CephCluster:
    """One running cluster. `running()` boots it and takes it away; the verbs below break it on purpose."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._gateway_port, self._monitor_port = _free_ports(2)
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._extra_users: list[str] = []
        self.server = S3Server(
            endpoint=f"http://127.0.0.1:{self._gateway_port}",
            access_key="pawl-tests",
            secret_key=uuid.uuid4().hex,
        )

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        """Boot a fresh cluster; at the end kill its daemons and remove its folder."""
        folder = Path(tempfile.mkdtemp(prefix="pawl-ceph-"))
        cluster = cls(folder)
        try:
            cluster._create()
            cluster.start()
            cluster._create_user("main", cluster.server)
            yield cluster
        finally:
            cluster.kill()
            shutil.rmtree(folder)

    # ------------------------------------------------------------------------------------------- daemons

    def start(self) -> None:
        """Start every daemon that does not run, and return when the gateway answers."""
        self._spawn("mon", "ceph-mon", "-f", "-i", "a")
        self._spawn("osd", "ceph-osd", "-f", "-i", "0")
        self._wait("the OSD to come up", lambda: b"1 up" in self._run("ceph", "osd", "stat"))
        self.start_gateway()

    def start_gateway(self) -> None:
        """Start the gateway if it does not run, and return when it answers."""
        self._spawn("gateway", "radosgw", "-f", "-n", "client.rgw")
        self._wait("the gateway to answer", self._gateway_answers)

    def kill_gateway(self) -> None:
        """`kill -9` of the gateway: clients see cut, then refused connections.

        After the next start the first change of a bucket or a user takes five seconds, objects do not.
        """
        self._kill("gateway")

    def kill(self) -> None:
        """`kill -9` of every daemon, as in a power cut; `start` brings the same data back."""
        for name in _DAEMONS:
            self._kill(name)

    def pid(self, name: Literal["gateway", "osd", "mon"]) -> int:
        """The process id of a running daemon, for a test that stops or slows it."""
        return self._daemons[name].pid

    # --------------------------------------------------------------------------------------------- users

    def add_user(self, access: Access) -> S3Server:
        """The same server with lesser keys, until `clean`.

        `read-only` sees the main user's buckets and may not change them. `no-delete` has buckets of its own, in
        which it may write and not delete.
        """
        name = f"{access}-{uuid.uuid4().hex[:8]}"
        user = S3Server(endpoint=self.server.endpoint, access_key=name, secret_key=uuid.uuid4().hex)
        if access == "read-only":
            self._admin(
                "subuser", "create", "--uid=main", f"--subuser=main:{name}", "--access=read",
                "--key-type=s3", f"--access-key={name}", f"--secret-key={user.secret_key}",
            )  # fmt: skip
        else:
            self._create_user(name, user, "--op-mask=read, write")
            self._extra_users.append(name)
        return user

    def clean(self) -> None:
        """Remove all data and every added user, and start again what was killed; called after each test."""
        if any(name not in self._daemons for name in _DAEMONS):
            self.start()
        self.server.delete_everything()
        while self._extra_users:
            self._admin("user", "rm", f"--uid={self._extra_users.pop()}", "--purge-data")

    def _create_user(self, name: str, user: S3Server, *options: str) -> None:
        self._admin(
            "user", "create", f"--uid={name}", f"--display-name={name}",
            f"--access-key={user.access_key}", f"--secret={user.secret_key}", *options,
        )  # fmt: skip

    def _admin(self, *arguments: str) -> None:
        self._run("radosgw-admin", *arguments)

    # ------------------------------------------------------------------------------------------ machinery

    def _create(self) -> None:
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        for name in ("mon", "osd", "log"):
            (self._folder / name).mkdir()
        conf = ceph_conf(
            self._folder, fsid=fsid, monitor=self._monitor_port, gateway=self._gateway_port
        )
        (self._folder / "ceph.conf").write_text(conf)
        keyring, monmap = str(self._folder / "keyring"), str(self._folder / "monmap")
        for number, name in enumerate(("mon.", "osd.0", "client.admin", "client.rgw")):
            self._run(
                "ceph-authtool", keyring, *(["--create-keyring"] if number == 0 else []),
                "--gen-key", "-n", name, *_ALL_CAPABILITIES,
            )  # fmt: skip
        monitor = f"[v1:127.0.0.1:{self._monitor_port}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", monitor, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self._spawn("mon", "ceph-mon", "-f", "-i", "a")
        # both must name one uuid: an OSD with another one never comes up, and the gateway then hangs in silence
        self._run("ceph", "osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._run("ceph", "osd", "crush", "add", "osd.0", "1.0", "host=h", "root=default")

    def _run(self, *command: str) -> bytes:
        try:
            done = subprocess.run(
                command, env=self._environment(), stdin=subprocess.DEVNULL, capture_output=True,
                timeout=_PATIENCE, check=True,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            raise CephError(f"{command[0]} failed: {error.stderr.decode()}") from error
        except subprocess.TimeoutExpired as error:
            raise CephError(f"{command[0]} did not answer.\n{self._said()}") from error
        return done.stdout

    def _spawn(self, name: str, *command: str) -> None:
        running = self._daemons.get(name)
        if running is not None and running.poll() is None:
            return
        with (self._folder / "log" / f"{name}.out").open("ab") as said:
            # setpriv ends the daemon with us, whatever ends us; a session of its own keeps our Ctrl-C from it
            self._daemons[name] = subprocess.Popen(
                ("setpriv", "--pdeathsig", "KILL", *command), env=self._environment(),
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip

    def _kill(self, name: str) -> None:
        if daemon := self._daemons.pop(name, None):
            daemon.kill()
            daemon.wait()

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "CEPH_CONF": str(self._folder / "ceph.conf"), "CEPH_ARGS": ""}

    def _gateway_answers(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self._gateway_port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == HTTPStatus.OK
        except (HTTPException, OSError):
            return False
        finally:
            connection.close()

    def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not ready():
            dead = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > deadline:
                raise CephError(f"Waited for {what}; ended meanwhile: {dead}.\n{self._said()}")
            time.sleep(0.1)

    def _said(self) -> str:
        logs = sorted((self._folder / "log").iterdir())
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in logs)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
