"""A real S3 server on one machine: Ceph's gateway over one monitor and one OSD, all on loopback, all in one folder.

The daemons are children of this process and run in the foreground, so each is ended by its own pid and none outlives
it, even when it is killed. Nothing of the machine's own Ceph configuration is read.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Protocol

from deployments.ceph_config import ceph_conf

__all__ = ["CephError", "CephGateway", "GatewayWish", "S3Access", "missing_commands"]

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
DAEMONS = ("gateway", "osd", "mon")


class CephError(RuntimeError):
    """The cluster did not do what is needed; the message ends with what its daemons said."""


class User(Protocol):
    @property
    def access_key(self) -> str: ...

    @property
    def secret_key(self) -> str: ...


def missing_commands() -> list[str]:
    """Which of the needed programs are not installed here."""
    return [command for command in _COMMANDS if shutil.which(command) is None]


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Access:
    """How one user reaches the server."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str = "us-east-1"

    def environment(self) -> dict[str, str]:
        """The variables by which Pawl and the AWS libraries find this server as this user."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
            # the gateway answers 411 to the trailing checksums that the newest AWS libraries send unasked
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayWish:
    """What a kept cluster is made with; what is None is chosen then."""

    host: str | None = None
    port: int | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)

    def noted(self) -> dict[str, Any]:
        gateway, monitor = _free_ports()
        return {
            "host": self.host or "127.0.0.1",
            "ports": [self.port or gateway, monitor],
            "access": self.access_key or "pawl",
            "secret": self.secret_key or uuid.uuid4().hex,
        }

    def differs_from(self, known: Mapping[str, Any]) -> str | None:
        """The first thing that is wished for and was made otherwise; no secret is repeated."""
        made = {
            "host": (self.host, known["host"]),
            "port": (self.port, known["ports"][0]),
            "access key": (self.access_key, known["access"]),
            "secret key": (self.secret_key, known["secret"]),
        }
        return next((n for n, (want, have) in made.items() if want not in {None, have}), None)


class CephGateway:
    """One running cluster in one folder.

    Args:
        folder: holds everything; made if need be.
        ports: of the gateway and of the monitor.
        host: the address that the gateway listens on; the monitor stays on loopback.
    """

    def __init__(
        self, folder: Path, ports: tuple[int, int] | None = None, host: str = "127.0.0.1"
    ) -> None:
        self._folder = folder
        self._host = host
        self._gateway_port, self._monitor_port = ports or _free_ports()
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @classmethod
    @contextmanager
    def kept(cls, folder: Path, wish: GatewayWish | None = None) -> Iterator[S3Access]:
        """The cluster whose data is in `folder`, made there the first time; its daemons end with the context.

        What is wished counts when the cluster is made, and must be the same ever after.

        Raises:
            CephError: it was made with other keys or another address, or does not start.
        """
        wish = wish or GatewayWish()
        notes = folder / "gateway.json"
        new = not notes.exists()
        if new:
            shutil.rmtree(folder, ignore_errors=True)  # a start that was cut off half-way
            folder.mkdir(parents=True, mode=0o700)
            known = wish.noted()
        else:
            known = {"host": "127.0.0.1", "access": "pawl", **json.loads(notes.read_text())}
            if differ := wish.differs_from(known):
                raise CephError(f"The S3 server in {folder} was made with another {differ}.")
        gateway, monitor = known["ports"]
        cluster = cls(folder, (gateway, monitor), known["host"])
        access = S3Access(
            endpoint=f"http://127.0.0.1:{gateway}",
            access_key=known["access"],
            secret_key=known["secret"],
        )
        try:
            if new:
                cluster._create()
            cluster.start()
            if new:
                cluster._create_user("main", access)
                notes.write_text(json.dumps(known))
                notes.chmod(0o600)
            yield access
        finally:
            cluster.kill()

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

    def kill(self) -> None:
        """`kill -9` of every daemon, as in a power cut; `start` brings the same data back."""
        for name in DAEMONS:
            self._kill(name)

    def _create_user(self, name: str, user: User, *options: str) -> None:
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
            self._folder, fsid=fsid, monitor=self._monitor_port, gateway=self._gateway_port,
            host=self._host,
        )  # fmt: skip
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


def _free_ports() -> tuple[int, int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    try:
        first, second = (int(each.getsockname()[1]) for each in sockets)
        return first, second
    finally:
        for each in sockets:
            each.close()
