"""One view of whatever bytes a caller hands in."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import Buffer

from ray_workers.store.errors import InvalidInputError

__all__ = ["flat_view", "spread"]


def flat_view(data: Buffer) -> memoryview:
    """The bytes of a C-contiguous buffer in one dimension, without a copy."""
    view = memoryview(data)
    if not view.c_contiguous:
        raise InvalidInputError("Only a C-contiguous buffer can be stored without a copy.")
    # A view with a zero in its shape cannot be cast, and holds nothing anyway.
    return view.cast("B") if view.nbytes else memoryview(b"")


def spread(data: Buffer, targets: Sequence[memoryview]) -> int:
    """Copy `data` into the targets, one after the other, as far as it goes; its length."""
    rest = memoryview(data).cast("B")
    for target in targets:
        piece, rest = rest[: len(target)], rest[len(target) :]
        target[: len(piece)] = piece
    return memoryview(data).nbytes
