"""A store that fails on purpose: a wrapper over any `ObjectStore`, told which call fails and how.

    store = FaultyStore(MemoryStore(), {3: Fault.DIE_AFTER})        # the third call, counted from 1
    store = FaultyStore(inner, fail_writes(2, Fault.LOSE_RESPONSE)) # the second write
    store = FaultyStore(inner, lambda call: Fault.UNAVAILABLE if call.key.startswith("runs/") else None)

Every call is kept in `calls`, whatever became of it, so that a crash matrix can count them in a dry run first.
"""

from __future__ import annotations

import builtins
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NoReturn, TypeVar

from typing_extensions import Buffer

from ray_workers.store.buffers import spread
from ray_workers.store.errors import (
    ObjectExistsError,
    ObjectNotFoundError,
    PawlError,
    StoreUnavailableError,
)
from ray_workers.store.object_store import ObjectInfo, ObjectStore

__all__ = [
    "Call",
    "Died",
    "Fault",
    "FaultyStore",
    "Hooked",
    "Landing",
    "Plan",
    "can_befall",
    "fail_writes",
]

Answer = TypeVar("Answer")

WRITES = frozenset({"put", "put_if_absent", "delete"})


class Died(BaseException):
    """The process died at this call. Every later call on the same wrapper raises it too, clean-up code included."""


class Fault(Enum):
    DIE_BEFORE = auto()
    """The call is not performed; then as `Died`."""
    DIE_AFTER = auto()
    """The call is performed and nobody learns of it."""
    LOSE_RESPONSE = auto()
    """The call is performed and `StoreUnavailableError` is raised."""
    DELAY = auto()
    """`StoreUnavailableError` now; the write lands with its caller's buffer, as that is then, on `land()`."""
    UNAVAILABLE = auto()
    """A 503: `StoreUnavailableError`, nothing performed."""
    FLIP_BIT = auto()
    """A `get`, `get_range` or `read_into` gives bytes with one bit turned; the stored ones stay good."""
    STALE_LIST = auto()
    """A listing as it was before this wrapper, or one it shares `before` with, wrote or deleted anything."""
    ANSWER_TWICE = auto()
    """The request reaches the store twice and the caller sees the second answer; a `delete` comes again on `land()`."""
    TEAR = auto()
    """A `put` breaks off in the middle: half of the object is there, and `StoreUnavailableError` is raised."""
    ROT = auto()
    """A write succeeds, and then one bit of what is stored turns, for everybody and for ever."""
    BUSY = auto()
    """A 409, another conditional write is under way: `StoreUnavailableError`, nothing performed."""
    TAKEN = auto()
    """A 412 although the key is free: the write that made it so failed in the end. Nothing performed."""


CREATES = frozenset({"put_if_absent"})
_ONLY = {
    Fault.DELAY: WRITES,
    Fault.FLIP_BIT: frozenset({"get", "get_range", "read_into"}),
    Fault.STALE_LIST: frozenset({"list", "list_folders"}),
    Fault.ANSWER_TWICE: WRITES,
    Fault.TEAR: frozenset({"put"}),
    Fault.ROT: frozenset({"put", "put_if_absent"}),
    Fault.BUSY: WRITES,
    Fault.TAKEN: CREATES,
}
"""A fault on a verb that it cannot befall would make a test that cannot fail."""


def can_befall(fault: Fault, verb: str) -> bool:
    return fault not in _ONLY or verb in _ONLY[fault]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    number: int
    """From 1, over all verbs."""
    write_number: int
    """From 1, over `put`, `put_if_absent` and `delete`; for a read, that of the last write before it."""
    verb: str
    key: str

    @property
    def is_write(self) -> bool:
        return self.verb in WRITES


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    call: Call
    refused: bool
    """True if the key existed when the delayed `put_if_absent` arrived."""


Plan = Callable[[Call], Fault | None]


def fail_writes(number: int, fault: Fault) -> Plan:
    """A plan in which the write of this number, counted from 1 over writes alone, fails."""
    return lambda call: fault if call.is_write and call.write_number == number else None


class FaultyStore:
    """Performs each call on `inner` unless `plan` gives it a fault. Safe to share between threads.

    Args:
        inner: the store that keeps the bytes; open a second wrapper on it to play the next process.
        plan: faults by call number, or a function of the call.
        before: what stood under each key before it was first written; shared by the wrappers of several processes, so
            that a stale listing is as old as all of them.
    """

    def __init__(
        self,
        inner: ObjectStore,
        plan: Mapping[int, Fault] | Plan | None = None,
        *,
        before: dict[str, ObjectInfo | None] | None = None,
    ) -> None:
        self._inner = inner
        self._plan: Plan = plan if callable(plan) else _by_number(plan or {})
        self._lock = threading.Lock()
        self._delayed: list[tuple[Call, Callable[[], None], Buffer]] = []
        self._before: dict[str, ObjectInfo | None] = {} if before is None else before
        self._written = 0
        self.calls: list[Call] = []
        self.dead = False

    def __repr__(self) -> str:
        return f"FaultyStore({self._inner!r})"

    @property
    def kind(self) -> str:
        return self._inner.kind

    @property
    def url(self) -> str:
        return self._inner.url

    @property
    def writes(self) -> list[Call]:
        return [call for call in self.calls if call.is_write]

    @property
    def pending(self) -> tuple[tuple[str, str, bytes], ...]:
        """The delayed writes that have not landed, oldest first: verb, key, bytes."""
        with self._lock:
            return tuple((call.verb, call.key, bytes(data)) for call, _, data in self._delayed)

    def land(self, count: int | None = None) -> list[Landing]:
        """Let the oldest `count` delayed writes reach the store, all by default; they land even if the writer died."""
        with self._lock:
            arriving = self._delayed[:count]
            del self._delayed[: len(arriving)]
        return [Landing(call=call, refused=_refused(perform)) for call, perform, _ in arriving]

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        return self._read("get", key, lambda: self._inner.get(key, at_most=at_most))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._read("get_range", key, lambda: self._inner.get_range(key, start, length))

    def read_into(self, key: str, start: int, *targets: memoryview) -> int:
        length = sum(map(len, targets))
        found = self._read("read_into", key, lambda: self._inner.get_range(key, start, length))
        return spread(found, targets)

    def put(self, key: str, data: Buffer) -> None:
        self._write("put", key, lambda: self._inner.put(key, data), data)

    def put_if_absent(self, key: str, data: Buffer) -> None:
        self._write("put_if_absent", key, lambda: self._inner.put_if_absent(key, data), data)

    def head(self, key: str) -> ObjectInfo:
        call, fault = self._begin("head", key)
        return self._perform(call, fault, lambda: self._inner.head(key))

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        call, fault = self._begin("list", prefix)
        found = self._perform(call, fault, lambda: [*self._inner.list(prefix, after=after)])
        return iter(self._stale(found, prefix, after) if fault is Fault.STALE_LIST else found)

    def list_folders(self, prefix: str) -> Sequence[str]:
        call, fault = self._begin("list_folders", prefix)
        if fault is not Fault.STALE_LIST:
            return self._perform(call, fault, lambda: self._inner.list_folders(prefix))
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        below = self._stale(builtins.list(self._inner.list(folder)), folder, "")
        rests = [info.key.removeprefix(folder) for info in below]
        return sorted({rest.partition("/")[0] for rest in rests if "/" in rest})

    def delete(self, key: str) -> None:
        self._write("delete", key, lambda: self._inner.delete(key))

    def _begin(self, verb: str, key: str) -> tuple[Call, Fault | None]:
        with self._lock:
            if self.dead:
                raise Died(f"{verb} {key!r} by a process that died before")
            self._written += verb in WRITES
            call = Call(number=len(self.calls) + 1, write_number=self._written, verb=verb, key=key)
            self.calls.append(call)
        fault = self._plan(call)
        if fault is not None and not can_befall(fault, verb):
            raise AssertionError(
                f"{fault} cannot befall call {call.number}, a {verb}: mend the test"
            )
        if fault is Fault.DIE_BEFORE:
            self._die(call)
        _refuse_on_purpose(call, fault)
        return call, fault

    def _perform(self, call: Call, fault: Fault | None, perform: Callable[[], Answer]) -> Answer:
        if fault not in {Fault.DIE_AFTER, Fault.LOSE_RESPONSE}:
            return perform()
        with contextlib.suppress(PawlError):  # a refusal is an answer too, and it is lost as well
            perform()
        if fault is Fault.DIE_AFTER:
            self._die(call)
        raise StoreUnavailableError(f"Answer lost on purpose at call {call.number}.", key=call.key)

    def _read(self, verb: str, key: str, perform: Callable[[], bytes]) -> bytes:
        call, fault = self._begin(verb, key)
        data = self._perform(call, fault, perform)
        return _turned(data) if fault is Fault.FLIP_BIT else data

    def _write(self, verb: str, key: str, perform: Callable[[], None], data: Buffer = b"") -> None:
        call, fault = self._begin(verb, key)
        if key not in self._before:
            self._before[key] = self._info(key)
        if fault is Fault.TEAR:
            self._inner.put(key, bytes(data)[: memoryview(data).nbytes // 2])
            raise StoreUnavailableError(f"Torn on purpose at call {call.number}.", key=key)
        if fault is Fault.DELAY:
            with self._lock:
                self._delayed.append((call, perform, data))
            raise StoreUnavailableError(f"Delayed on purpose at call {call.number}.", key=key)
        if fault is Fault.ANSWER_TWICE:
            with contextlib.suppress(PawlError):
                perform()
            if verb == "delete":
                with self._lock:
                    self._delayed.append((call, perform, data))
        self._perform(call, fault, perform)
        if fault is Fault.ROT:
            # Another bit than a read turns, or a flip in transfer would mend it.
            self._inner.put(key, _turned(self._inner.get(key), bit=1 << 1))

    def _info(self, key: str) -> ObjectInfo | None:
        try:
            return self._inner.head(key)
        except ObjectNotFoundError:
            return None

    def _stale(
        self, found: builtins.list[ObjectInfo], prefix: str, after: str
    ) -> builtins.list[ObjectInfo]:
        untouched = [info for info in found if info.key not in self._before]
        former = [
            info
            for key, info in self._before.items()
            if info is not None and key.startswith(prefix) and key > after
        ]
        return sorted(untouched + former, key=lambda info: info.key)

    def _die(self, call: Call) -> NoReturn:
        self.dead = True
        raise Died(f"{call.verb} {call.key!r}, call {call.number}")


def _refuse_on_purpose(call: Call, fault: Fault | None) -> None:
    if fault in {Fault.UNAVAILABLE, Fault.BUSY}:
        status = 503 if fault is Fault.UNAVAILABLE else 409
        raise StoreUnavailableError(f"{status} on purpose at call {call.number}.", key=call.key)
    if fault is Fault.TAKEN:
        raise ObjectExistsError(f"412 on purpose at call {call.number}.", key=call.key)


def _turned(data: bytes, *, bit: int = 1) -> bytes:
    turned = bytearray(data)
    turned[len(turned) // 2] ^= bit
    return bytes(turned)


class Hooked(FaultyStore):
    """A view of a store on which `before` may act, or raise, before each call; it is told verb and key."""

    def __init__(self, inner: ObjectStore, before: Callable[[str, str], None]) -> None:
        def plan(call: Call) -> None:
            before(call.verb, call.key)

        super().__init__(inner, plan)


def _by_number(faults: Mapping[int, Fault]) -> Plan:
    return lambda call: faults.get(call.number)


def _refused(perform: Callable[[], None]) -> bool:
    try:
        perform()
    except ObjectExistsError:
        return True
    return False
