"""What a test needs to know of the S3 server that it talks to."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.config import Config

from ray_workers.store.credentials import S3Credentials

__all__ = ["S3Server"]


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """One endpoint seen with one user's keys. Buckets do not outlive the test that made them."""

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

    def credentials(self) -> S3Credentials:
        """The same for Pawl's own client, as a storage block would give it."""
        return S3Credentials(
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            region=self.region,
            endpoint_url=self.endpoint,
        )

    def client(self) -> Any:
        """A boto3 client: the tests' second opinion on what Pawl's own client did."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"max_attempts": 0},
                connect_timeout=5,
                read_timeout=30,
                request_checksum_calculation="when_required",
            ),
        )

    def new_bucket(self) -> str:
        """Create an empty bucket with a name of its own."""
        name = f"pawl-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def delete_everything(self) -> None:
        """Remove every bucket of this user, with what is in it: a full disk blocks the gateway without a word."""
        client = self.client()
        for bucket in client.list_buckets()["Buckets"]:
            _empty(client, bucket["Name"])
            client.delete_bucket(Bucket=bucket["Name"])


def _empty(client: Any, bucket: str) -> None:
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        for upload in page.get("Uploads", []):
            client.abort_multipart_upload(
                Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
            )
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
        doomed = [
            {"Key": entry["Key"], "VersionId": entry["VersionId"]}
            for kind in ("Versions", "DeleteMarkers")
            for entry in page.get(kind, [])
        ]
        if doomed:
            client.delete_objects(Bucket=bucket, Delete={"Objects": doomed, "Quiet": True})
