"""Digests that say by which algorithm they were made: `xxh3-128:<hex>` (FORMAT.md §11).

XXH3 is the default, because it costs less than the upload it hides in and finds every accidental change. Where a
digest must also stand against a person who crafts bytes (sharing shards between runs), use sha256 or blake3.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Callable
from typing import Any

import xxhash
from typing_extensions import Buffer

from ray_workers.store.errors import DigestMismatchError, InvalidInputError, NewerFormatError

__all__ = [
    "DEFAULT_ALGORITHM",
    "Hasher",
    "check_known",
    "digest_of",
    "is_digest",
    "known_algorithms",
    "mismatch",
    "verify",
]

DEFAULT_ALGORITHM = "xxh3-128"

_DIGEST = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*):([0-9a-f]{16,128})")
_HEX_LENGTHS = {"xxh3-128": 32, "sha256": 64, "blake3": 64}


def _blake3() -> Any:
    # Optional package: imported by the few who ask for it.
    return importlib.import_module("blake3").blake3()


_ALGORITHMS: dict[str, Callable[[], Any]] = {
    DEFAULT_ALGORITHM: xxhash.xxh3_128,
    "sha256": hashlib.sha256,
}
if importlib.util.find_spec("blake3") is not None:
    _ALGORITHMS["blake3"] = _blake3


class Hasher:
    """A digest taken piece by piece.

    Raises:
        InvalidInputError: the algorithm is unknown, or its package is not installed.
    """

    def __init__(self, algorithm: str = DEFAULT_ALGORITHM) -> None:
        begin = _ALGORITHMS.get(algorithm)
        if begin is None:
            raise InvalidInputError(
                f"The digest algorithm {algorithm!r} is not available here: use one of "
                f"{', '.join(known_algorithms())}."
            )
        self._algorithm = algorithm
        self._state = begin()

    def update(self, data: Buffer) -> None:
        self._state.update(memoryview(data).cast("B"))

    def digest(self) -> str:
        """`<algorithm>:<hex>` of all pieces so far."""
        return f"{self._algorithm}:{self._state.hexdigest()}"


def known_algorithms() -> tuple[str, ...]:
    """Algorithms usable in this process, the default first."""
    return tuple(_ALGORITHMS)


def is_digest(text: str) -> bool:
    """True when `text` is spelled like a digest, of an algorithm known here or not."""
    match = _DIGEST.fullmatch(text)
    return match is not None and len(match[2]) == _HEX_LENGTHS.get(match[1], len(match[2]))


def digest_of(data: Buffer, algorithm: str = DEFAULT_ALGORITHM) -> str:
    """`<algorithm>:<hex>` of all bytes of a C-contiguous buffer, without copying it.

    Raises:
        InvalidInputError: the algorithm is unknown, or its package is not installed.
    """
    hasher = Hasher(algorithm)
    hasher.update(data)
    return hasher.digest()


def check_known(digest: str, *, key: str) -> str:
    """The algorithm of a digest. Raises `NewerFormatError` when it is not known here."""
    algorithm = digest.partition(":")[0]
    if algorithm not in _ALGORITHMS:
        raise NewerFormatError(
            f"{key} carries a digest by {algorithm[:40]!r}, which is not available here: "
            f"{'install the package blake3' if algorithm == 'blake3' else 'use the Pawl that wrote it'}.",
            key=key,
        )
    return algorithm


def verify(data: Buffer, digest: str, *, key: str) -> None:
    """Return if `data` has `digest`.

    Raises:
        DigestMismatchError: the bytes are not those that were written; details: `key`, `expected`, `found`.
        NewerFormatError: the algorithm is not known here.
    """
    found = digest_of(data, check_known(digest, key=key))
    if found != digest:
        raise mismatch(key, expected=digest, found=found)


def mismatch(key: str, *, expected: str, found: str) -> DigestMismatchError:
    """What `verify` raises; for those who took the digest themselves."""
    return DigestMismatchError(
        f"{key} is damaged: its bytes have the digest {found}, but {expected} was written.",
        key=key,
        expected=expected,
        found=found,
    )
