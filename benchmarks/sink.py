"""An S3 server that discards: the ceiling of a client, on which no real server's work shows.

Small objects (records, manifests) are kept, for they are read back. Of a large one only the length is kept, unless
`keep` is given; then its parts stay where they were received, and are served from there. It answers what Pawl asks and
nothing else, checks no signature, and is its own process.
"""

from __future__ import annotations

import multiprocessing
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["sink"]

_SMALL_BYTES = 1 << 20
_WHEN = datetime(2026, 1, 1, tzinfo=UTC)


class _Objects:
    def __init__(self, *, keep: bool) -> None:
        self.keep = keep
        self.lock = threading.Lock()
        self.whole: dict[str, list[bytearray]] = {}
        self.sizes: dict[str, int] = {}
        self.parts: dict[str, dict[int, bytearray]] = {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    rbufsize = 1 << 20
    objects: _Objects

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_PUT(self) -> None:
        key, query = self._target()
        body = self._body()
        store = self.objects
        with store.lock:
            if "partNumber" in query:
                store.parts[query["uploadId"]][int(query["partNumber"])] = body
            elif self.headers.get("If-None-Match") == "*" and key in store.sizes:
                self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            else:
                self._keep(key, [body])
        self._answer(200, headers={"ETag": '"1"'})

    def do_POST(self) -> None:
        key, query = self._target()
        self._body()
        store = self.objects
        with store.lock:
            if "uploads" in query:
                upload = f"u{len(store.parts)}"
                store.parts[upload] = {}
                text = f"<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>{key}</Key><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            else:
                parts = store.parts.pop(query["uploadId"], {})
                store.parts[query["uploadId"]] = {}
                self._keep(key, [parts[number] for number in sorted(parts)])
                text = f'<CompleteMultipartUploadResult><Bucket>b</Bucket><Key>{key}</Key><ETag>"1"</ETag></CompleteMultipartUploadResult>'
        self._answer(200, text.encode())

    def do_HEAD(self) -> None:
        self._send(body=False)

    def do_GET(self) -> None:
        _, query = self._target()
        if "list-type" in query:
            self._list(query)
        else:
            self._send(body=True)

    def do_DELETE(self) -> None:
        key, _ = self._target()
        with self.objects.lock:
            self.objects.sizes.pop(key, None)
            self.objects.whole.pop(key, None)
        self._answer(204)

    def _keep(self, key: str, parts: list[bytearray]) -> None:
        size = sum(map(len, parts))
        self.objects.sizes[key] = size
        if self.objects.keep or size <= _SMALL_BYTES:
            self.objects.whole[key] = parts

    def _send(self, *, body: bool) -> None:
        key, _ = self._target()
        size = self.objects.sizes.get(key)
        if size is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>" if body else b"")
            return
        begin, end = self._range(size)
        if begin >= size > 0:
            self._answer(416, b"<Error><Code>InvalidRange</Code></Error>")
            return
        self.send_response(206 if "Range" in self.headers else 200)
        self._headers(end - begin, f"bytes {begin}-{end - 1}/{size}")
        if body:
            for piece in _pieces(self.objects.whole.get(key, []), begin, end):
                self.wfile.write(piece)

    def _headers(self, length: int, place: str) -> None:
        headers = {
            "Content-Length": length,
            "ETag": '"1"',
            "Last-Modified": format_datetime(_WHEN, usegmt=True),
        }
        if "Range" in self.headers:
            headers["Content-Range"] = place
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def _range(self, size: int) -> tuple[int, int]:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return 0, size
        return int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)

    def _list(self, query: dict[str, str]) -> None:
        prefix, after = query.get("prefix", ""), query.get("start-after", "")
        with self.objects.lock:
            keys = sorted(k for k in self.objects.sizes if k.startswith(prefix) and k > after)
        contents = "".join(
            f"<Contents><Key>{k}</Key><Size>{self.objects.sizes[k]}</Size><ETag>1</ETag>"
            f"<LastModified>{_WHEN:%Y-%m-%dT%H:%M:%S.000Z}</LastModified></Contents>"
            for k in keys
        )
        self._answer(
            200,
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode(),
        )

    def _target(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        return unquote(parts.path).lstrip("/").partition("/")[2], query

    def _body(self) -> bytearray:
        body = bytearray(int(self.headers.get("Content-Length") or 0))
        view = memoryview(body)
        while view:
            found = self.rfile.readinto(view)
            if not found:
                break
            view = view[found:]
        return body

    def _answer(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _pieces(parts: list[bytearray], begin: int, end: int) -> Iterator[memoryview]:
    position = 0
    for part in parts:
        low, high = max(begin, position), min(end, position + len(part))
        if low < high:
            yield memoryview(part)[low - position : high - position]
        position += len(part)


def _serve(ports: Any, *, keep: bool) -> None:
    _Handler.objects = _Objects(keep=keep)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    ports.send(server.server_port)
    server.serve_forever()


@contextmanager
def sink(*, keep: bool) -> Iterator[str]:
    """Run one; its endpoint's URL."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), kwargs={"keep": keep}, daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.terminate()
        process.join()
