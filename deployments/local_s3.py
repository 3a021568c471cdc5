"""An S3 server for one machine, in the foreground until it is told to end: `python -m deployments.local_s3 FOLDER`.

Its data stays in FOLDER and is there again at the next start. FOLDER/access.json, readable for its owner alone, says how
to reach it and appears when it answers. In a container `--host 0.0.0.0 --port N` opens it to the others, and its keys are
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

from deployments.ceph import CephGateway, GatewayWish

__all__ = ["ACCESS", "BUCKET", "main"]

ACCESS = "access.json"
BUCKET = "pawl"


def main(folder: Path, wish: GatewayWish | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    (folder / ACCESS).unlink(missing_ok=True)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with CephGateway.kept(folder, wish) as access:
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


def _asked() -> tuple[Path, GatewayWish]:
    parser = argparse.ArgumentParser(description="An S3 server for one machine, in the foreground.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", help="address to listen on; by default 127.0.0.1")
    parser.add_argument("--port", type=int, help="by default a free one")
    asked = parser.parse_args()
    keys = {
        "access_key": os.environ.get("AWS_ACCESS_KEY_ID"),
        "secret_key": os.environ.get("AWS_SECRET_ACCESS_KEY"),
    }
    # `make up` has always made keys of its own, whatever the shell holds; only an opened server takes them from there
    opened = keys if asked.host is not None else {}
    return asked.folder, GatewayWish(host=asked.host, port=asked.port, **opened)


if __name__ == "__main__":
    main(*_asked())
