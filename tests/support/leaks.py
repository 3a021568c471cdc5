"""Looking for a planted secret in everything that something left behind, also where it is packed or encoded."""

from __future__ import annotations

import base64
import io
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet

__all__ = ["Places", "bucket_contents", "database_text", "files_below", "forms"]

Places = Mapping[str, Iterable[tuple[str, bytes]]]
"""What was left, by where: each thing by its name, and its bytes."""

_ENOUGH = 6
"""Letters of a base64 text that may belong to its neighbours at either end."""


def forms(secret: str) -> set[bytes]:
    """How a secret may stand somewhere: as it is, quoted for a URL, or within a base64 text at any of its offsets."""
    raw = secret.encode()
    packed = {base64.b64encode(b"\0" * shift + raw)[_ENOUGH:-_ENOUGH] for shift in range(3)}
    return {raw, quote(secret, safe="").encode(), *packed}


def bucket_contents(client: object, bucket: str) -> Iterator[tuple[str, bytes]]:
    """Every object of a bucket, as `files_below`."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)  # type: ignore[attr-defined]
    for page in pages:
        for entry in page.get("Contents", []):
            body = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"]  # type: ignore[attr-defined]
            yield entry["Key"], _unpacked(entry["Key"], body.read())


def files_below(*folders: Path) -> Iterator[tuple[str, bytes]]:
    """Every file, its name in front of its bytes; Parquet as text, since its pages are compressed."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield (
                    str(path),
                    str(path).encode() + b"\n" + _unpacked(path.name, path.read_bytes()),
                )


def database_text(path: Path) -> bytes:
    """All rows of an SQLite database: in the file itself a long value is cut in pieces."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as database:
        return "\n".join(database.iterdump()).encode()


def _unpacked(name: str, data: bytes) -> bytes:
    if not name.endswith(".parquet"):
        return data
    table = pyarrow.parquet.read_table(io.BytesIO(data))
    return data + repr(table.schema.metadata).encode() + repr(table.to_pylist()).encode()
