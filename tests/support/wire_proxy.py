"""A wire between an S3 client and a real server that a test cuts, delays and duplicates, request by request.

    with wire_proxy(server.endpoint) as wire:
        wire.plan = on_write("/log/", WireFault.LOSE_ANSWER)
        store = S3Store(bucket, "root", keys_with(endpoint_url=wire.url), LIMITS)

Requests go on byte for byte, the `Host` that was signed included, so nothing between here and the server is made up.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

__all__ = ["WireFault", "WireProxy", "WireRequest", "once", "wire_proxy"]

_PATIENCE_S = 60.0
"""For the real server; only a broken test waits so long."""


class WireFault(StrEnum):
    CUT_BEFORE = "the connection is cut before the request arrives"
    CUT_REQUEST = "the connection is cut in the middle of the request"
    LOSE_ANSWER = "the request is performed, its answer is lost"
    CUT_ANSWER = "the request is performed, its answer is cut in the middle"
    HOLD_ANSWER = "the request is performed, its answer comes after the client's patience"
    ERROR_AFTER = "the request is performed, and a gateway answers 500"
    TWICE = "the request is performed twice, the second answer counts"
    LATE = "the connection is cut, the request arrives much later"
    THROTTLED = "a gateway answers 503, nothing is performed"
    CONFLICT = "a gateway answers 409, nothing is performed"
    FORBIDDEN = "a gateway answers 403, nothing is performed"


_REFUSALS = {
    WireFault.THROTTLED: (503, "SlowDown"),
    WireFault.CONFLICT: (409, "ConditionalRequestConflict"),
    WireFault.FORBIDDEN: (403, "AccessDenied"),
}
_NOT_NOW = (WireFault.CUT_BEFORE, WireFault.CUT_REQUEST, WireFault.LATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class WireRequest:
    number: int
    """From 1, over all requests."""
    method: str
    target: str
    """Path and query."""
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def is_write(self) -> bool:
        return self.method in ("PUT", "POST", "DELETE")

    def raw(self) -> bytes:
        return _head(f"{self.method} {self.target} HTTP/1.1", self.headers.items()) + self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes

    def raw(self) -> bytes:
        return _head(f"HTTP/1.1 {self.status} {self.reason}", self.headers) + self.body


def _head(first: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


Plan = Callable[[WireRequest], WireFault | None]


def once(part: str, fault: WireFault, *, method: str = "PUT") -> Plan:
    """The first request of that method with `part` in its target suffers; those after it do not."""
    left = [fault]
    lock = threading.Lock()

    def plan(request: WireRequest) -> WireFault | None:
        with lock:
            hit = request.method == method and part in request.target and left
            return left.pop() if hit else None

    return plan


class WireProxy:
    """Hands requests on and answers back, but for those that `plan` gives a fault. `plan` may be exchanged at any time."""

    def __init__(self, endpoint: str) -> None:
        self.plan: Plan = lambda _: None
        self.requests: list[WireRequest] = []
        self.injured: list[tuple[WireRequest, WireFault]] = []
        self._upstream = urlsplit(endpoint)
        self._late: list[WireRequest] = []
        self._lock = threading.Lock()
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

    def land(self) -> list[int]:
        """Let the requests that were kept back arrive; the statuses that nobody waits for any more."""
        with self._lock:
            arriving, self._late = self._late, []
        return [self._forward(request).status for request in arriving]

    def take(self, handler: BaseHTTPRequestHandler) -> tuple[WireRequest, WireFault | None]:
        """The next request of a client, and what befalls it."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self._lock:
            request = WireRequest(
                number=len(self.requests) + 1,
                method=handler.command,
                target=handler.path,
                headers=dict(handler.headers.items()),
                body=body,
            )
            self.requests.append(request)
        fault = self.plan(request)
        if fault is not None:
            with self._lock:
                self.injured.append((request, fault))
        return request, fault

    def play(self, request: WireRequest, fault: WireFault | None) -> _Answer | None:
        """Perform what the fault leaves of the request; None when no answer is to be given."""
        if fault in _REFUSALS:
            return _made_up(*_REFUSALS[fault])
        if fault in _NOT_NOW:
            self._leave(request, fault)
            return None
        answer = self._forward(request)
        if fault is WireFault.TWICE:
            answer = self._forward(request)
        return _made_up(500, "InternalError") if fault is WireFault.ERROR_AFTER else answer

    def _leave(self, request: WireRequest, fault: WireFault | None) -> None:
        if fault is WireFault.CUT_REQUEST:
            self._send_half(request)
        if fault is WireFault.LATE:
            with self._lock:
                self._late.append(request)

    def _forward(self, request: WireRequest) -> _Answer:
        """Perform it; a server that is not there is a bad gateway, as on a real wire."""
        connection = self._connect()
        try:
            _send(connection, request)
            reply = connection.getresponse()
            body = reply.read()
            headers = [(n, v) for n, v in reply.getheaders() if n.lower() not in _OURS]
            # The answer to a HEAD names a length and has no body.
            named = reply.getheader("Content-Length") if request.method == "HEAD" else None
            headers.append(("Content-Length", named or str(len(body))))
            return _Answer(status=reply.status, reason=reply.reason, headers=headers, body=body)
        except (HTTPException, OSError):
            return _made_up(502, "BadGateway")
        finally:
            connection.close()

    def _send_half(self, request: WireRequest) -> None:
        raw = request.raw()
        body = len(request.body)
        # Half of the body; of a request without one, half of its head, so that nothing is performed.
        half = len(raw) - body + body // 2 if body else len(raw) // 2
        address = (str(self._upstream.hostname), self._upstream.port)
        with contextlib.suppress(OSError), socket.create_connection(address, _PATIENCE_S) as server:
            server.sendall(raw[:half])

    def _connect(self) -> HTTPConnection:
        return HTTPConnection(
            str(self._upstream.hostname), self._upstream.port, timeout=_PATIENCE_S
        )


_OURS = {"connection", "transfer-encoding", "content-length", "keep-alive"}


def _send(connection: HTTPConnection, request: WireRequest) -> None:
    connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers.items():
        if name.lower() != "connection":
            connection.putheader(name, value)
    connection.endheaders(request.body)


def _made_up(status: int, code: str) -> _Answer:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code></Error>'.encode()
    headers = [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))]
    return _Answer(status=status, reason=code, headers=headers, body=body)


@contextlib.contextmanager
def wire_proxy(endpoint: str) -> Iterator[WireProxy]:
    proxy = WireProxy(endpoint)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def _handler(proxy: WireProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

        def _serve(self) -> None:
            request, fault = proxy.take(self)
            answer = proxy.play(request, fault)
            if fault is WireFault.HOLD_ANSWER:
                proxy.closing.wait()
            if answer is None or fault in (WireFault.LOSE_ANSWER, WireFault.HOLD_ANSWER):
                self._cut()
                return
            raw = answer.raw()
            cut = fault is WireFault.CUT_ANSWER
            self.wfile.write(raw[: len(raw) // 2] if cut else raw)
            if cut:
                self._cut()

        def _cut(self) -> None:
            """A reset, not an orderly end: what a router or a dying process leaves."""
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815 - the names http.server calls

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its signature
            """Be quiet."""

    return Handler
