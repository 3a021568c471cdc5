"""One of several processes that create the same objects. Light to import, because eight of them start at once."""

from __future__ import annotations

import threading

from ray_workers.store.errors import ObjectExistsError
from ray_workers.store.opening import StorageTarget, open_store

__all__ = ["race_to_create"]


def race_to_create(
    target: StorageTarget, gate: threading.Barrier, writer: int, rounds: int
) -> list[bool]:
    """Run in a process of its own: in which rounds this writer created the object."""
    store = open_store(target.url, credentials=target.credentials)
    won = []
    for number in range(rounds):
        gate.wait()
        try:
            store.put_if_absent(f"race/{number}", b"%d" % writer * 2000)
        except ObjectExistsError:
            won.append(False)
        else:
            won.append(True)
    return won
