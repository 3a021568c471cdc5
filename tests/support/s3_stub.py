"""A server that answers S3 requests as a test tells it to: the error codes, silences and cuts that no real one gives on demand."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["Answer", "Request", "S3Stub", "error", "s3_stub"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    path: str
    """With its query."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    silent: bool = False
    """Keep the connection open and say nothing until the server closes."""
    cut: bool = False
    """Close the connection instead of answering."""


def error(status: int, code: str) -> Answer:
    """S3's error document. Real ones repeat the caller's key id, so this one does too."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f"<Error><Code>{code}</Code><Message>for people</Message>"
        "<AWSAccessKeyId>CANARYKEYID</AWSAccessKeyId></Error>"
    )
    return Answer(status=status, body=body.encode(), headers={"Content-Type": "application/xml"})


class S3Stub:
    """Calls `answer` for each request and keeps the request in `requests`. `answer` may be exchanged at any time."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextlib.contextmanager
def s3_stub(answer: Callable[[Request], Answer]) -> Iterator[S3Stub]:
    stub = S3Stub(answer)
    stub.start()
    try:
        yield stub
    finally:
        stub.stop()


def _handler(stub: S3Stub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            request = Request(
                method=self.command,
                path=self.path,
                headers={name.lower(): value for name, value in self.headers.items()},
                body=self.rfile.read(length),
            )
            stub.requests.append(request)
            self._reply(stub.answer(request))

        def _reply(self, reply: Answer) -> None:
            if reply.silent:
                stub.closing.wait()
            if reply.silent or reply.cut:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815 - the names http.server calls

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its signature
            """Be quiet."""

    return Handler
