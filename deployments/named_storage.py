"""Where `--storage` of a command points: a folder, a URL, or a storage block of a Prefect server."""

from __future__ import annotations

import httpx

from ray_workers.store.errors import InvalidInputError, StoreUnavailableError
from ray_workers.store.opening import StorageTarget

__all__ = ["is_block", "storage_at"]

_BLOCK = "pawl-storage/"


def is_block(storage: str) -> bool:
    """Whether it is a block's name; a folder that is called so is written `./pawl-storage/…`."""
    return storage.startswith(_BLOCK)


def storage_at(storage: str) -> StorageTarget:
    """The place, with the keys that a block holds.

    Raises:
        InvalidInputError: not a place; no such block; or a block, and no Prefect server is named.
        StoreUnavailableError: the Prefect server does not answer.
    """
    if not is_block(storage):
        return StorageTarget(storage)
    from prefect.settings import PREFECT_API_URL  # noqa: PLC0415 - takes seconds, and reading a folder must not

    from tasks.blocks import storage_target  # noqa: PLC0415 - as above

    if not PREFECT_API_URL.value():
        raise InvalidInputError(
            f"{storage!r} is the name of a block, and no Prefect server is named that could have it: set PREFECT_API_URL, "
            "or give the folder or the s3:// URL itself."
        )
    try:
        return storage_target(storage)
    except httpx.HTTPError as error:
        raise StoreUnavailableError(
            f"The Prefect server at {PREFECT_API_URL.value()}, which has the block {storage!r}, does not answer: {error}"
        ) from error
