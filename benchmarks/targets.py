"""Where a benchmark stores: a folder, an S3 server that discards, one that keeps, a real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.sink import sink
from ray_workers.store.credentials import S3Credentials
from ray_workers.store.opening import StorageTarget

__all__ = ["TARGETS", "opened_target", "sink_target"]

TARGETS = ("local", "sink", "ceph")


@contextmanager
def opened_target(name: str, folder: Path) -> Iterator[tuple[StorageTarget, StorageTarget | None]]:
    """Where saves go; and where versions to restore lie, if the first does not keep them."""
    if name == "local":
        yield StorageTarget(str(folder / "store")), None
    elif name == "sink":
        # On the first no server's work shows. What is restored has to come from one that has it.
        with sink(keep=False) as discards, sink(keep=True) as keeps:
            yield sink_target(discards), sink_target(keeps)
    else:
        with _ceph() as target:
            yield target, None


def sink_target(endpoint: str) -> StorageTarget:
    """The target at a `sink`."""
    keys = S3Credentials(
        access_key_id="any",
        secret_access_key="any",  # noqa: S106 - opens nothing
        endpoint_url=endpoint,
    )
    return StorageTarget("s3://bench/root", keys)


@contextmanager
def _ceph() -> Iterator[StorageTarget]:
    from tests.support.ceph import CephCluster  # noqa: PLC0415 - only where Ceph is wanted

    with CephCluster.running() as cluster:
        server = cluster.server
        keys = S3Credentials(
            access_key_id=server.access_key,
            secret_access_key=server.secret_key,
            endpoint_url=server.endpoint,
        )
        yield StorageTarget(f"s3://{server.new_bucket()}/root", keys)
