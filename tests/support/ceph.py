"""The tests' S3 server: Ceph's gateway (`deployments.ceph`) with the verbs that break it on purpose."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from deployments.ceph import DAEMONS, CephError, CephGateway, missing_commands
from tests.support.s3_server import S3Server

__all__ = ["CephCluster", "CephError", "missing_commands"]

Access = Literal["read-only", "no-delete", "stranger"]


class CephCluster(CephGateway):
    """One running cluster. `running()` boots it and takes it away; the verbs below break it on purpose."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
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

    def kill_gateway(self) -> None:
        """`kill -9` of the gateway: clients see cut, then refused connections.

        After the next start the first change of a bucket or a user takes five seconds, objects do not.
        """
        self._kill("gateway")

    def pid(self, name: Literal["gateway", "osd", "mon"]) -> int:
        """The process id of a running daemon, for a test that stops or slows it."""
        return self._daemons[name].pid

    # --------------------------------------------------------------------------------------------- users

    def add_user(self, access: Access) -> S3Server:
        """The same server with lesser keys, until `clean`.

        `read-only` sees the main user's buckets and may not change them. `no-delete` has buckets of its own, in
        which it may write and not delete. `stranger` sees nothing but what a bucket's policy allows it.
        """
        name = f"{access}-{uuid.uuid4().hex[:8]}"
        user = S3Server(endpoint=self.server.endpoint, access_key=name, secret_key=uuid.uuid4().hex)
        if access == "read-only":
            self._admin(
                "subuser", "create", "--uid=main", f"--subuser=main:{name}", "--access=read",
                "--key-type=s3", f"--access-key={name}", f"--secret-key={user.secret_key}",
            )  # fmt: skip
        else:
            options = ["--op-mask=read, write"] if access == "no-delete" else []
            self._create_user(name, user, *options)
            self._extra_users.append(name)
        return user

    def clean(self) -> None:
        """Remove all data and every added user, and start again what was killed; called after each test."""
        if any(name not in self._daemons for name in DAEMONS):
            self.start()
        self.server.delete_everything()
        while self._extra_users:
            self._admin("user", "rm", f"--uid={self._extra_users.pop()}", "--purge-data")
