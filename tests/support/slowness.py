"""How much slower this machine is just now than when it has nothing else to do."""

from __future__ import annotations

import subprocess
import sys

__all__ = ["slowness"]

_WORK = """
import time
wall, cpu = time.perf_counter(), time.process_time()
while time.process_time() - cpu < 0.3:
    pass
print((time.perf_counter() - wall) / (time.process_time() - cpu))
"""


def slowness() -> float:
    """Seconds that a second of computing takes now, in two processes at once; 1.0 on a machine that is idle.

    For limits that are promised of a machine of one's own: a limit times this is fair on one that is shared.
    """
    command = [sys.executable, "-c", _WORK]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    return max(1.0, *(float(each.communicate(timeout=300)[0]) for each in running))
