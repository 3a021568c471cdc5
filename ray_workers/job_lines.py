"""What a training that runs as a Ray job says to the flow that follows it: numbered lines in the job's log.

Whatever else stands in that log is nobody's business here. A follower that lost its connection reads from the start
again and skips the numbers that it has seen.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ray_workers.messages import PawlEvent
from ray_workers.store.errors import InternalError, PawlError

__all__ = ["JobLine", "LineReader", "LineWriter", "error_of", "event_of"]

_MARK = "pawl "


class _Text(Protocol):
    def write(self, text: str, /) -> Any: ...
    def flush(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLine:
    number: int
    kind: str
    """`event`, `letter_box` (a public key that asks for the store's keys) or `end`."""
    content: dict[str, Any]


class LineWriter:
    """The job's side. Called from several threads."""

    def __init__(self, out: _Text) -> None:
        self._out = out
        self._number = 0
        self._lock = threading.Lock()

    def event(self, event: PawlEvent) -> None:
        self._write(
            "event",
            {
                "kind": event.kind,
                "message": event.message,
                "at": event.at,
                "details": dict(event.details),
            },
        )

    def letter_box(self, public: str) -> None:
        self._write("letter_box", {"public": public})

    def end(self, error: BaseException | None) -> None:
        """How it ended; `error` None: trained to its end."""
        self._write("end", {} if error is None else _described(error))

    def _write(self, kind: str, content: dict[str, Any]) -> None:
        with self._lock:
            self._number += 1
            line = {"n": self._number, "kind": kind, "content": content}
            self._out.write(f"{_MARK}{json.dumps(line, default=str)}\n")
            self._out.flush()


class LineReader:
    """The follower's side: pieces of the log in, new lines out."""

    def __init__(self) -> None:
        self._seen = 0
        self._rest = ""

    def begin_again(self) -> None:
        """The log is read from its start once more."""
        self._rest = ""

    def feed(self, piece: str) -> Iterator[JobLine]:
        *lines, self._rest = (self._rest + piece).split("\n")
        for text in lines:
            line = _parsed(text)
            if line is not None and line.number > self._seen:
                self._seen = line.number
                yield line


def event_of(line: JobLine) -> PawlEvent:
    content = line.content
    return PawlEvent(
        kind=str(content.get("kind")),
        message=str(content.get("message")),
        at=str(content.get("at")),
        details=dict(content.get("details") or {}),
    )


def error_of(line: JobLine) -> PawlError | None:
    """The error that an `end` line tells of, as the class it was; None: the training completed."""
    content = line.content
    if "error" not in content:
        return None
    message, details = str(content.get("message")), dict(content.get("details") or {})
    cls = _classes().get(str(content["error"]), InternalError)
    return cls(message, **details)


def _described(error: BaseException) -> dict[str, Any]:
    if isinstance(error, PawlError):
        return {"error": error.kind, "message": error.message, "details": error.details}
    return {"error": InternalError.kind, "message": f"{type(error).__name__}: {error}"}


def _parsed(text: str) -> JobLine | None:
    if not text.startswith(_MARK):
        return None
    try:
        line = json.loads(text.removeprefix(_MARK))
        return JobLine(number=int(line["n"]), kind=str(line["kind"]), content=dict(line["content"]))
    except (ValueError, KeyError, TypeError):
        return None  # a user's print may begin with the same word


def _classes() -> dict[str, type[PawlError]]:
    found: dict[str, type[PawlError]] = {}
    waiting = [PawlError]
    while waiting:
        cls = waiting.pop()
        found[cls.kind] = cls
        waiting.extend(cls.__subclasses__())
    return found
