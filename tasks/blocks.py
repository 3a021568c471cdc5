"""Prefect blocks that hold where versions are stored and where Ray is, and their use by name in parameters.

A parameter holds only the block's name (`pawl-storage/main`), never what is in it: Prefect keeps and shows parameters.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar, Literal

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from ray_workers.config import Scaling
from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.opening import StorageTarget
from tasks.block_documents import block_document, keys_of_block
from tasks.scheduled import deployed_storage

__all__ = ["PawlCluster", "PawlStorage", "storage_target", "use_cluster"]

DEFAULT_STORAGE = "./pawl-store"
_STORAGE = "pawl-storage"
_CLUSTER = "pawl-cluster"


class PawlStorage(Block):
    """Where Pawl keeps checkpoints, and the keys that reach it.

    Use it by name: put pawl-storage/NAME into a flow's parameter `storage`. Only the name is kept with the flow run.
    """

    _block_type_name = "Pawl storage"
    _block_type_slug = _STORAGE
    _description = "Where Pawl keeps its checkpoints: a bucket or a folder, and the keys to it."
    _documentation_url = "https://docs.prefect.io/v3/concepts/blocks"  # type: ignore[assignment]

    url: str = Field(
        title="URL",
        description="s3://bucket, s3://bucket/prefix, or an absolute folder that every worker sees. Keys never go here.",
        examples=["s3://my-checkpoints"],
    )
    root: str = Field(
        default="",
        title="Root below the URL",
        description="Prefix or folder below the URL under which the runs are kept. Empty: the URL itself.",
        examples=["team-a/pawl"],
    )
    credentials_block: str | None = Field(
        default=None,
        title="Credentials block",
        description=(
            "Name of a block of prefect-aws, as aws-credentials/NAME or minio-credentials/NAME. Give either this, or the "
            "two keys below, or neither: then the workers' environment (AWS_ACCESS_KEY_ID, a role …) is used."
        ),
        examples=["aws-credentials/production"],
    )
    access_key_id: SecretStr | None = Field(
        default=None, title="Access key id", description="With the secret access key below."
    )
    secret_access_key: SecretStr | None = Field(
        default=None,
        title="Secret access key",
        description="Stored encrypted by Prefect; never written to checkpoints, logs or parameters.",
    )
    session_token: SecretStr | None = Field(
        default=None, title="Session token", description="Only for temporary keys."
    )
    region: str | None = Field(
        default=None, title="Region", description="Empty: AWS_REGION, else us-east-1."
    )
    endpoint_url: str | None = Field(
        default=None,
        title="Endpoint",
        description="For an S3 server other than AWS: http://host:port. Empty: AWS_ENDPOINT_URL, else AWS.",
        examples=["http://ceph.example:7480"],
    )
    encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = Field(
        default=None,
        title="Encryption at rest",
        description="What the S3 server is asked to encrypt each object with. Empty: whatever the bucket's default is.",
    )
    kms_key_id: str | None = Field(
        default=None,
        title="KMS key",
        description="Key for aws:kms and aws:kms:dsse. Empty: the account's own key for S3.",
    )

    def target(self) -> StorageTarget:
        """Where versions are, with the keys, for the core.

        Raises:
            InvalidInputError: a value that cannot be used, named by its title; no secret is repeated.
        """
        url = "/".join(part for part in (self.url.rstrip("/"), self.root.strip("/")) if part)
        given = self._keys()
        if not url.startswith("s3://"):
            if given or self.endpoint_url or self.encryption:
                raise InvalidInputError(
                    f"The storage block names the folder {url!r}, and keys, endpoint and encryption are for s3:// alone: "
                    "empty them, or write an s3:// URL."
                )
            return StorageTarget(url)
        if self.kms_key_id and self.encryption not in {"aws:kms", "aws:kms:dsse"}:
            raise InvalidInputError(
                "The storage block has a KMS key: choose aws:kms or aws:kms:dsse as its encryption, or empty the key."
            )
        own = {
            "region": self.region,
            "endpoint_url": self.endpoint_url,
            "encryption": self.encryption,
            "kms_key_id": self.kms_key_id,
        }
        given |= {name: value for name, value in own.items() if value}
        return StorageTarget(url, S3Credentials(**given))

    def _keys(self) -> dict[str, Any]:
        keys = {
            name: value.get_secret_value()
            for name, value in (
                ("access_key_id", self.access_key_id),
                ("secret_access_key", self.secret_access_key),
                ("session_token", self.session_token),
            )
            if value is not None and value.get_secret_value()
        }
        if not self.credentials_block:
            return keys
        if keys:
            raise InvalidInputError(
                "The storage block has a credentials block and keys of its own: give one of them."
            )
        return keys_of_block(self.credentials_block)


class PawlCluster(Block):
    """Where Pawl trains: a Ray cluster started for each run, an existing one, or Ray Jobs.

    Use it by name: put pawl-cluster/NAME into a flow's parameter `scaling.cluster`.
    """

    _block_type_name = "Pawl cluster"
    _block_type_slug = _CLUSTER
    _description = "The Ray cluster that Pawl trains on, and the token that it asks for."
    _documentation_url = "https://docs.prefect.io/v3/concepts/blocks"  # type: ignore[assignment]

    kind: Literal["local", "existing", "jobs"] = Field(
        default="local",
        title="Kind",
        description=(
            "local: a cluster is started on the worker's machine for each run. existing: join the cluster at the address. "
            "jobs: submit to the Ray Jobs server at the address; the training survives the flow's process."
        ),
    )
    address: str | None = Field(
        default=None,
        title="Address",
        description="existing: host:port or auto. jobs: http://host:8265. local: empty.",
        examples=["http://ray-head:8265"],
    )
    token: SecretStr | None = Field(
        default=None,
        title="Token",
        description="If the cluster runs with RAY_AUTH_MODE=token: its token. Empty: the worker's environment.",
    )

    _schemes: ClassVar[tuple[str, ...]] = ("http://", "https://")

    def ray_address(self) -> str | None:
        """The address as the flow's own parameter `scaling.ray_address` takes it; None starts a cluster.

        Raises:
            InvalidInputError: the address does not fit the kind.
        """
        address = (self.address or "").strip()
        if "@" in address:
            raise InvalidInputError(
                "The cluster block's address holds a user or password, and it is shown: put the token into its own field."
            )
        is_url = address.startswith(self._schemes)
        if self.kind == "local":
            if address:
                raise InvalidInputError(
                    f"The cluster block is of kind local and has the address {address!r}: empty it, or choose existing or jobs."
                )
            return None
        if self.kind == "jobs" and not is_url:
            raise InvalidInputError(
                "The cluster block is of kind jobs: its address must be that of the Ray dashboard, as in http://host:8265."
            )
        if self.kind == "existing" and (not address or "://" in address):
            raise InvalidInputError(
                "The cluster block is of kind existing: its address must be host:port or auto."
            )
        return address


def storage_target(storage: str | None) -> StorageTarget:
    """From the flow parameter `storage`: a folder, a URL, or `pawl-storage/NAME`. Empty: PAWL_STORAGE, else ./pawl-store.

    In a run of a schedule an empty one is first of all what the deployment says. A folder of that very name is written `./pawl-storage/…`.

    Raises:
        InvalidInputError: no such block, or one that cannot be used.
    """
    wanted = storage or deployed_storage() or os.environ.get("PAWL_STORAGE") or DEFAULT_STORAGE
    name = _name_in(wanted, _STORAGE)
    if name is None:
        return StorageTarget(wanted)
    return PawlStorage.model_validate(block_document(_STORAGE, name)).target()


def use_cluster(scaling: Scaling) -> Scaling:
    """`scaling` with the address of its cluster block; the block's token goes into this process's environment alone.

    Raises:
        InvalidInputError: no such block, one that cannot be used, or both a block and an address.
    """
    if scaling.cluster is None:
        return scaling
    if scaling.ray_address is not None:
        raise InvalidInputError(
            "Both scaling.cluster and scaling.ray_address are set: give one of them."
        )
    block = PawlCluster.model_validate(block_document(_CLUSTER, _name_of_cluster(scaling.cluster)))
    if block.token is not None and block.token.get_secret_value():
        os.environ |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": block.token.get_secret_value(),
        }
    return scaling.model_copy(update={"ray_address": block.ray_address()})


def _name_in(text: str, slug: str) -> str | None:
    found, slash, name = text.partition("/")
    return name if found == slug and slash and name and "/" not in name else None


def _name_of_cluster(reference: str) -> str:
    name = _name_in(reference, _CLUSTER)
    if name is None:
        raise InvalidInputError(
            f"scaling.cluster is {reference[:120]!r}: write the name of a cluster block, as in pawl-cluster/main."
        )
    return name
