"""What one rank prints and logs, on its way to the flow run's page: Python's own output, with its level, rate-bounded.

`print`, `logging` and what is written to `sys.stdout` and `sys.stderr` is taken; what native code writes to the file
descriptors is not. Everything still goes where it went before.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from ray_workers.messages import LogLine
from ray_workers.policies.line_budget import LineBudget
from ray_workers.store.clock import utc_now

__all__ = ["RankLogs"]

_LONGEST = 2000
_BURST_S = 3
_FLUSH_S = 0.3
_TRACEBACK_LINES = 40
_FRAMEWORK = "ray"
"""What this logger and those below it say in passing is about Ray, not about the training."""


class RankLogs:
    """Use as a context manager around the training loop.

    Args:
        rank: whose lines these are.
        send: takes a batch of lines, from a thread of its own; what it raises is swallowed, since training goes first.
        per_second: lines a second in the long run; 0: nothing is taken.
    """

    def __init__(
        self, rank: int, send: Callable[[list[LogLine]], None], *, per_second: float
    ) -> None:
        self._rank = rank
        self._send = send
        self._per_second = per_second
        self._budget = LineBudget(per_second, max(1, round(per_second * _BURST_S)))
        self._lines: deque[LogLine] = deque()
        self._lock = threading.RLock()
        self._handler = _RecordHandler(self)
        self._loggers: list[logging.Logger] = []
        self._taps: list[_StreamTap] = []
        self._done = threading.Event()
        self._flusher = threading.Thread(target=self._run, name="pawl-rank-logs", daemon=True)

    def __enter__(self) -> Self:
        if self._per_second > 0:
            seen = _Seen()
            self._handler.seen = seen
            self._loggers = _ends()
            for logger in self._loggers:
                logger.handlers.insert(0, self._handler)
            self._taps = [
                _StreamTap(sys.stdout, logging.INFO, self, seen),
                _StreamTap(sys.stderr, logging.INFO, self, seen),
            ]
            self._flusher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._per_second <= 0:
            return
        for logger in self._loggers:
            logger.removeHandler(self._handler)
        for tap in self._taps:
            tap.remove()
        if error is not None:
            text = "".join(traceback.format_exception(kind, error, trace)).rstrip()
            self.add(logging.ERROR, *text.splitlines()[-_TRACEBACK_LINES:], always=True)
        self._done.set()
        self._flusher.join(5)
        self._flush()

    def add(self, level: int, *texts: str, always: bool = False) -> None:
        """Take lines, as many as the budget allows; never waits for anybody."""
        with self._lock:
            for text in texts:
                if text.strip() and (always or self._budget.take(time.monotonic())):
                    self._lines.append(self._line(level, text[:_LONGEST]))

    def _line(self, level: int, text: str) -> LogLine:
        return LogLine(rank=self._rank, level=level, text=text, at=utc_now())

    def _run(self) -> None:
        while not self._done.wait(_FLUSH_S):
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            batch = list(self._lines)
            self._lines.clear()
            if left_out := self._budget.left_out():
                batch.append(
                    self._line(
                        logging.WARNING,
                        f"{left_out} lines left out: more than {self._per_second:g} a second",
                    )
                )
        if batch:
            with contextlib.suppress(Exception):  # a lost line must not end training
                self._send(batch)


def _ends() -> list[logging.Logger]:
    """The loggers at which records end: the root, and those that pass none on, as Ray's own."""
    known = logging.getLogger().manager.loggerDict.values()
    return [
        logging.getLogger(),
        *(one for one in known if isinstance(one, logging.Logger) and not one.propagate),
    ]


class _Seen(threading.local):
    """What the thread logged just now and a stream handler is about to write, or has written, again."""

    def __init__(self) -> None:
        self.expected: deque[str] = deque(maxlen=200)
        self.last_line = ""


class _RecordHandler(logging.Handler):
    def __init__(self, logs: RankLogs) -> None:
        super().__init__()
        self.seen = _Seen()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        try:
            texts = self.format(record).splitlines()
        except Exception:  # noqa: BLE001 - a message that does not fit its arguments; logging's own report is enough
            return
        if texts and self.seen.last_line and texts[-1] in self.seen.last_line:
            self.seen.last_line = (
                ""  # a handler of its own logger wrote it before this one heard of it
            )
            return
        self.seen.expected.clear()
        self.seen.expected.extend(texts)
        if record.levelno >= logging.WARNING or record.name.partition(".")[0] != _FRAMEWORK:
            self._logs.add(record.levelno, *texts)


class _StreamTap:
    """Listens to `stream.write`; the stream stays the object it was, for those who compare."""

    def __init__(self, stream: Any, level: int, logs: RankLogs, seen: _Seen) -> None:
        self._stream = stream
        self._write = stream.write
        self._level = level
        self._logs = logs
        self._seen = seen
        self._rest = ""
        self._stream.write = self._heard

    def remove(self) -> None:
        self._stream.write = self._write
        if self._rest:
            self._line(self._rest)

    def _heard(self, text: str) -> int:
        written: int = self._write(text)
        *lines, self._rest = (self._rest + text).split("\n")
        self._rest = self._rest[-_LONGEST:].rpartition("\r")[2]  # a progress bar redraws itself
        for line in lines:
            self._line(line.rpartition("\r")[2])
        return written

    def _line(self, line: str) -> None:
        expected = self._seen.expected
        if expected and expected[0] in line:
            expected.popleft()
            return
        self._seen.last_line = line
        self._logs.add(self._level, line)
