"""What every thread of this process does just now, as text; and what the kernel says of one that cannot answer."""

from __future__ import annotations

import sys
import threading
import traceback
from pathlib import Path

__all__ = ["all_stacks", "process_state"]

_MOST = 16_000
_OURS = ("pawl-", "ray_print_logs")
"""Threads whose names begin so say nothing about training, and come last."""
_STATES = {
    "R": "running",
    "S": "waiting",
    "D": "waiting for a device or file system",
    "T": "stopped",
    "t": "stopped",
    "Z": "dead",
}


def all_stacks() -> str:
    """Of all threads, outermost call first, at most some 16,000 characters."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():  # noqa: SLF001 - the documented way to ask other threads
        name = names.get(ident, str(ident))
        text = "".join(traceback.format_stack(frame))
        parts.append((name.startswith(_OURS), name, f"thread {name}:\n{text}"))
    return "\n".join(text for _, _, text in sorted(parts))[:_MOST]


def process_state(pid: int) -> str:
    """What a process of this host does, in one word or a few."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"
    return _STATES.get(state, state)
