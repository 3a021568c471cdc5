"""An S3 server for one machine, in the foreground until it is told to end: `python -m deployments.local_s3 FOLDER`.

Its data stays in FOLDER and is there again at the next start. FOLDER/access.json, readable for its owner alone, says how
to reach it and appears when it answers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from deployments.ceph import CephGateway

__all__ = ["ACCESS", "BUCKET", "main"]

ACCESS = "access.json"
BUCKET = "pawl"


def main(folder: Path) -> None:
    """Serve until SIGTERM or SIGINT."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with CephGateway.kept(folder) as access:
        _make_bucket(access.environment())
        _write_private(folder / ACCESS, access.environment())
        ended.wait()


def _make_bucket(environment: dict[str, str]) -> None:
    import s3fs  # noqa: PLC0415 - takes a second, and only this needs it

    os.environ |= environment
    files: Any = s3fs.S3FileSystem(
        key=environment["AWS_ACCESS_KEY_ID"],
        secret=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        config_kwargs={"s3": {"addressing_style": "path"}},
    )
    if not files.exists(BUCKET):
        files.mkdir(BUCKET)


def _write_private(path: Path, value: dict[str, str]) -> None:
    half = path.with_suffix(".half")
    with os.fdopen(os.open(half, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as out:
        json.dump(value, out)
    half.rename(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
