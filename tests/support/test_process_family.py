"""A process that left its parent, its session and its title behind is still found; a stranger is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.process_family import Family

ORPHAN = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {ORPHAN!r}])"


@pytest.fixture
def family() -> Iterator[Family]:
    made = Family()
    yield made
    made.kill()


@pytest.fixture
def orphan(family: Family) -> psutil.Process:
    """Its parent is gone, and it leads a session of its own."""
    with start(family, PARENT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
    return psutil.Process(pid)


def start(family: Family, code: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, **family.environment}
    return subprocess.Popen([sys.executable, "-S", "-c", code], env=env, stdout=subprocess.PIPE)


def test_an_orphan_is_killed_and_a_stranger_lives(family: Family, orphan: psutil.Process) -> None:
    stranger = start(Family(), "import time; time.sleep(600)")
    try:
        assert family.members() == [orphan]
        family.kill()
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        assert family.members() == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.communicate()


def test_a_child_without_the_mark_is_of_the_family(family: Family) -> None:
    child = "import time; print(1, flush=True); time.sleep(600)"
    bare = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}], env={{}})"
    )
    with start(family, bare) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert len(family.members()) == 2
        family.kill()
        parent.wait(10)


def test_frozen_ones_do_nothing_until_they_are_thawed(family: Family, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = f"import time\nwhile True: open({str(trace)!r}, 'a').write('.'); time.sleep(0.005)"
    with start(family, code) as busy:
        while not trace.exists():
            time.sleep(0.01)
        family.freeze()
        size = trace.stat().st_size
        time.sleep(0.1)
        assert trace.stat().st_size == size
        family.thaw()
        while trace.stat().st_size == size:
            time.sleep(0.01)
        family.kill()
        busy.wait(10)
