"""Something that is so for a while, said again and again: who hears it no more knows that it is so no more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["telling_again"]


@contextmanager
def telling_again(tell: Callable[[], object], *, every_s: float) -> Iterator[None]:
    """Call `tell` now, and every so many seconds on a thread of its own until the block is left."""
    over = threading.Event()

    def tell_on() -> None:
        while not over.wait(every_s):
            tell()

    tell()
    threading.Thread(target=tell_on, name="pawl-telling", daemon=True).start()
    try:
        yield
    finally:
        over.set()
