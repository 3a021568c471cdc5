"""A training job as text: what a Ray job is started with. Ray shows that to everybody, so no key is ever in it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.opening import StorageTarget
from ray_workers.training_job import TrainingJob

__all__ = ["JobSpec", "credentials_letter", "fingerprint", "open_letter"]

_LARGEST = 120_000
"""Characters; Linux takes 128 KiB for one environment variable."""
_JOB: TypeAdapter[TrainingJob] = TypeAdapter(TrainingJob)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    job: TrainingJob
    """Without keys; region and endpoint are in it."""
    wants_keys: bool
    """The store's keys come in a sealed letter; else the cluster's own environment has them."""

    @classmethod
    def of(cls, job: TrainingJob) -> JobSpec:
        """`job` must hold the credentials that were given for its store, or none."""
        keys = job.target.credentials
        plain = keys and replace(
            keys, access_key_id=None, secret_access_key=None, session_token=None
        )
        return cls(
            job=replace(job, target=StorageTarget(job.target.url, plain)),
            wants_keys=keys is not None and keys.secret_access_key is not None,
        )

    def encode(self) -> str:
        body = {"job": _JOB.dump_python(self.job, mode="json"), "wants_keys": self.wants_keys}
        text = base64.b64encode(zlib.compress(json.dumps(body).encode())).decode()
        if len(text) > _LARGEST:
            raise InvalidInputError(
                f"The configuration is too large to start a Ray job with: {len(text)} characters packed, {_LARGEST} are "
                "possible. Put what is large into a file that the loop reads."
            )
        return text

    @classmethod
    def decode(cls, text: str, code_dir: Path) -> JobSpec:
        """On the cluster, where the user's project lies in another folder."""
        try:
            body = json.loads(zlib.decompress(base64.b64decode(text, validate=True)))
            job = _JOB.validate_python(body["job"], strict=False)
        except (binascii.Error, zlib.error, ValueError, KeyError) as error:
            raise InvalidInputError(
                f"This Ray job was started with no valid spec: {error}"
            ) from None
        return cls(job=replace(job, code_dir=code_dir), wants_keys=bool(body["wants_keys"]))

    def with_keys(self, keys: S3Credentials | None) -> TrainingJob:
        if keys is None:
            return self.job
        return replace(self.job, target=StorageTarget(self.job.target.url, keys))


def fingerprint(entrypoint: str, config: Mapping[str, Any], url: str) -> str:
    """Equal for two requests that would train the same thing to the same place."""
    body = json.dumps([entrypoint, config, url], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:32]


def credentials_letter(credentials: S3Credentials) -> bytes:
    return json.dumps(
        {name: getattr(credentials, name) for name in S3Credentials.__slots__}
    ).encode()


def open_letter(content: bytes) -> S3Credentials:
    return S3Credentials(**json.loads(content))
