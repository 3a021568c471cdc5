"""The bucket policy of docs/storage.md, as it is printed there, on a real gateway: what each role may do, and may not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ray_workers.store import keys
from ray_workers.store.attempts import read_run
from ray_workers.store.bodies import Retire
from ray_workers.store.errors import StoreRefusedError
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import open_root
from ray_workers.store.sweep import sweep
from tests.support.ceph import CephCluster
from tests.support.factories import MadeUpRun
from tests.support.s3_server import S3Server

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("s3_server")]

PAGE = Path(__file__).parents[2] / "docs" / "storage.md"
BY_BUCKET = "RecordsAreOnlyCreated"
"""The statement that needs a server which knows the condition; Ceph 16 does not."""
ROLE = re.compile(r"arn:aws:iam::\d+:role/pawl-(training|sweeper)")


@dataclass(frozen=True, slots=True)
class Guarded:
    """A bucket of its owner's under the policy, and the two users that the policy names."""

    owner: S3Server
    bucket: str
    training: S3Server
    sweeper: S3Server

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/team/pawl"

    def apply(self, *, without: str | None) -> None:
        """Put the printed policy on the bucket, less one statement."""
        names = {"training": self.training.access_key, "sweeper": self.sweeper.access_key}
        text = ROLE.sub(lambda role: f"arn:aws:iam:::user/{names[role[1]]}", printed_policy())
        policy = json.loads(
            text.replace("BUCKET/ROOT", f"{self.bucket}/team/pawl").replace("BUCKET", self.bucket)
        )
        policy["Statement"] = [s for s in policy["Statement"] if s["Sid"] != without]
        self.owner.client().put_bucket_policy(Bucket=self.bucket, Policy=json.dumps(policy))

    def store(self, user: S3Server, *, create: bool = False) -> ObjectStore:
        return open_root(self.url, create=create, credentials=user.credentials()).store

    def refuses(self, user: S3Server, call: str, key: str, **more: Any) -> bool:
        """Whether a bare request of this user, with a key below the root, is refused for want of permission."""
        answer = self._answer(user, call, f"team/pawl/{key}", **more)
        assert answer in {"", "AccessDenied"}, answer
        return bool(answer)

    def refuses_beside(self, user: S3Server, key: str) -> bool:
        """The same for a write that is not below the root."""
        return self._answer(user, "put_object", key, Body=b"") == "AccessDenied"

    def _answer(self, user: S3Server, call: str, key: str, **more: Any) -> str:
        """The code of the error, or nothing."""
        try:
            getattr(user.client(), call)(Bucket=self.bucket, Key=key, **more)
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return ""


def printed_policy() -> str:
    """The one block of JSON on the page that is a policy."""
    (policy,) = [
        b for b in re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL) if "Statement" in b
    ]
    return str(policy)


@pytest.fixture
def guarded(ceph: CephCluster) -> Iterator[Guarded]:
    owner = ceph.server
    made = Guarded(owner, owner.new_bucket(), ceph.add_user("stranger"), ceph.add_user("stranger"))
    made.apply(without=BY_BUCKET)
    yield made
    owner.client().delete_bucket_policy(Bucket=made.bucket)  # it binds its owner too, who cleans up


def trained(store: ObjectStore) -> MadeUpRun:
    """Five sound versions, the first retired, by somebody who may do what training may."""
    run = MadeUpRun(store=store, name="run")
    run.start()
    for number in range(1, 6):
        run.commit(10 * number)
    run.judge(1, 2, 3, 4, 5)
    run.append(Retire(versions=(run.version(1).name,)))
    run.end()
    return run


def test_training_needs_no_more_and_the_sweeper_can_do_its_work(guarded: Guarded) -> None:
    run = trained(guarded.store(guarded.training, create=True))
    report = sweep(guarded.store(guarded.sweeper), run.name, by={"host": "sweeper"}, grace_s=0)
    assert report.swept == (1,)
    assert read_run(guarded.store(guarded.training), run.name).versions[1].status == "swept"


def test_neither_role_can_delete_or_rewrite_what_it_should_not(guarded: Guarded) -> None:
    run = trained(guarded.store(guarded.training, create=True))
    record, shard = keys.log_key(run.name, 1), run.shard_keys(5)[0]
    assert guarded.refuses(guarded.training, "delete_object", shard)
    assert guarded.refuses(guarded.training, "delete_object", record)
    assert guarded.refuses(guarded.sweeper, "delete_object", record)
    assert guarded.refuses(guarded.sweeper, "delete_object", "pawl.json")
    assert not guarded.refuses(
        guarded.sweeper, "delete_object", shard
    )  # the policy is what refused
    assert guarded.refuses_beside(guarded.training, "team/other")


def test_somebody_whom_the_policy_does_not_name_sees_nothing(
    ceph: CephCluster, guarded: Guarded
) -> None:
    trained(guarded.store(guarded.training, create=True))
    stranger = ceph.add_user("stranger")
    with pytest.raises(StoreRefusedError, match="permission"):
        guarded.store(stranger)


def test_a_server_that_does_not_know_the_condition_refuses_every_record(guarded: Guarded) -> None:
    """Ceph 16 finds the header absent whatever is sent: the page says to leave the statement out there."""
    guarded.store(guarded.training, create=True)
    guarded.apply(without=None)
    record = keys.log_key("run", 1)
    assert guarded.refuses(guarded.training, "put_object", record, Body=b"x")
    with pytest.raises(StoreRefusedError, match="s3:PutObject"):
        trained(guarded.store(guarded.training))
