"""Every credential is a canary: trainings on Ceph end in every bad way, and nothing that they leave holds one of them."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from ray_workers.store.credentials import S3Credentials
from ray_workers.store.opening import StorageTarget
from tasks.blocks import PawlStorage
from tests.integration.conftest import PrefectServer
from tests.integration.harness import PawlProcess, StoredRun, start_pawl
from tests.integration.traced_training import Training
from tests.support.ceph import CephCluster
from tests.support.leaks import Places, bucket_contents, database_text, files_below, forms
from tests.support.s3_server import S3Server

pytestmark = [
    pytest.mark.ray, pytest.mark.prefect, pytest.mark.s3, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(2400),
]  # fmt: skip

RUN = "plain-sight"
"""Not a secret: it must be found wherever the secrets are looked for."""
HELD = 17
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where shards are staged


@dataclass(slots=True)
class Planted:
    """The secrets, by what they are, and a training that knows them."""

    training: Training
    user: S3Server
    url: str
    bucket: str
    ray_folder: Path
    secrets: dict[str, str] = field(default_factory=dict)
    shown: list[tuple[str, bytes]] = field(default_factory=list)
    """What could be seen of processes while they ran."""

    def secret(self, what: str) -> str:
        return self.secrets.setdefault(what, f"canary{uuid.uuid4().hex}")

    def refused(self, *words: str, **env: str) -> None:
        """A command that must end as bad input."""
        line = ("train", "traced:train_loop", "--run", RUN, "--retries", "0", *words)
        process = start_pawl(self.training.project, *line, env={**self.training.environment, **env})
        assert process.wait() == 2, process.output

    def look_at(self, process: PawlProcess) -> None:
        """The command lines of all its processes, which everybody on the machine can read."""
        for member in process.family.members():
            with contextlib.suppress(psutil.Error):  # it has just ended
                line = " ".join(member.cmdline())
                self.shown.append((f"command line {member.pid}", line.encode()))

    def places(self) -> Places:
        """Everything that is left, by where it lies."""
        home = self.training.server.home
        client = self.user.client()
        return {
            "command lines": self.shown,
            "the project folder, terminal output included": files_below(self.training.project),
            "Prefect's database": [("rows", database_text(home / "prefect.db"))],
            "Prefect's folder": files_below(home),
            "the bucket": bucket_contents(client, self.bucket),
            "Ray's sessions": files_below(self.ray_folder),
            "shared memory": self.staged(),
        }

    def staged(self) -> list[tuple[str, bytes]]:
        found = []
        for path in SHARED_MEMORY.glob("pawl-*"):
            with contextlib.suppress(OSError):  # of somebody else, and gone
                found.append((str(path), path.read_bytes()))
        return found


@pytest.fixture
def planted(
    project: Path, prefect_server: PrefectServer, ceph: CephCluster, s3_server: S3Server
) -> Iterator[Planted]:
    del s3_server  # it cleans the cluster after this test
    user = ceph.add_user("no-delete")  # training needs no more
    training = Training(project, prefect_server, RUN)
    bucket = user.new_bucket()
    keys = S3Credentials(
        access_key_id=user.access_key, secret_access_key=user.secret_key, endpoint_url=user.endpoint, region=user.region,
    )  # fmt: skip
    url = f"s3://{bucket}/pawl"
    training.stored = StoredRun(target=StorageTarget(url, keys), run=RUN)
    folder = Path(
        tempfile.mkdtemp(prefix="pc-")
    )  # sockets lie below it, and their paths must be short
    made = Planted(training=training, user=user, url=url, bucket=bucket, ray_folder=folder)
    made.secrets |= {"the secret key": user.secret_key}
    training.environment |= {
        **user.environment(),
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": made.secret("Ray's token"),
        "HF_TOKEN": made.secret("a token of the user's loop"),
        "PREFECT_API_KEY": made.secret("Prefect's key"),
    }
    yield made
    shutil.rmtree(folder, ignore_errors=True)


def test_no_secret_is_in_anything_that_is_left_behind(planted: Planted) -> None:
    on_the_bucket = ("--storage", planted.url)
    planted.refused(*on_the_bucket, AWS_SECRET_ACCESS_KEY=planted.secret("a wrong secret key"))
    planted.refused(
        *on_the_bucket,
        AWS_ENDPOINT_URL=f"http://me:{planted.secret('in the endpoint')}@127.0.0.1:9",
    )
    planted.refused("--storage", f"s3://me:{planted.secret('in the URL')}@bucket/pawl")
    planted.refused("--storage", f"s3://bucket/pawl?token={planted.secret('in the query')}")
    planted.refused("--ray-address", f"http://me:{planted.secret('in the address')}@127.0.0.1:9")
    planted.refused(*on_the_bucket, "--set", f"api_key={planted.secret('a hyperparameter')}")

    raises = planted.training.start(*on_the_bucket, raise_at=12)
    assert raises.wait() == 75, raises.output
    assert "planted failure" in raises.output

    gates = planted.training.gates(HELD)
    killed = through_a_block(planted, gates=gates)
    gates.reach(HELD)
    planted.look_at(killed)
    killed.kill_everything()
    planted.shown += planted.staged()

    gates.open(HELD)
    last = through_a_block(planted, gates=gates)
    assert last.wait() == 0, last.output
    assert planted.training.outcomes() == ["failed", None, "completed"]

    leaks = []
    for place, things in planted.places().items():
        seen = 0
        for name, data in things:
            seen += RUN.encode() in data
            leaks += [
                f"{what} is in {place}: {name}"
                for what, secret in planted.secrets.items()
                if any(form in data for form in forms(secret))
            ]
        # Shared memory is empty in the end, and its files are named by the run's id.
        assert seen or place == "shared memory", f"nothing of {RUN} was found in {place}"
    assert leaks == []
    assert any(str(SHARED_MEMORY) in name for name, _ in planted.shown)


def through_a_block(planted: Planted, **start: Any) -> PawlProcess:
    """Start the next attempt without keys in its environment: they are in a Prefect block."""
    user, training = planted.user, planted.training
    with temporary_settings({PREFECT_API_URL: training.server.api_url}):
        PawlStorage(
            url=planted.url, access_key_id=SecretStr(user.access_key), secret_access_key=SecretStr(user.secret_key),
            endpoint_url=user.endpoint, region=user.region,
        ).save("canary", overwrite=True)  # fmt: skip
    for name in list(training.environment):
        if name.startswith("AWS_"):
            del training.environment[name]
    return training.start("--storage", "pawl-storage/canary", **start)
