"""The registry while a run writes and others rebuild it: real processes, on a folder and on an S3 server."""

import subprocess
import sys

import pytest

from ray_workers.store.opening import open_root
from ray_workers.store.registry import read_registry, refresh_run
from tests.support.factories import MadeUpRun

VERSIONS = 12
_REBUILDER = """
import sys
from ray_workers.store.opening import open_root
from ray_workers.store.registry import refresh_run
store = open_root(sys.argv[1], create=False).store
print("ready", flush=True)
made = 0
while not any(info.key == "probe/enough" for info in store.list("probe/")):
    refresh_run(store, "digits", anew=True)
    made += 1
print(made)
"""


@pytest.fixture(params=["folder", pytest.param("s3", marks=[pytest.mark.s3, pytest.mark.slow])])
def url(request, tmp_path, monkeypatch):
    if request.param == "folder":
        return str(tmp_path)
    for name, value in request.getfixturevalue("s3_server").environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{request.getfixturevalue('s3_bucket')}/root"


def test_rebuilding_processes_never_show_half_a_file_and_lose_nothing(url):
    store = open_root(url, create=True).store
    run = MadeUpRun(store=store)
    run.start()
    run.commit(1)
    rebuilders = [
        subprocess.Popen([sys.executable, "-c", _REBUILDER, url], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for process in rebuilders:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for step in range(2, VERSIONS + 1):
            run.commit(step)
            numbers = read_registry(store)["number"].to_pylist()
            assert numbers == list(range(1, len(numbers) + 1))
        store.put("probe/enough", b"")
        told = [process.communicate(timeout=120)[0] for process in rebuilders]
    finally:
        for process in rebuilders:
            process.kill()
    assert all(int(made) > 0 for made in told)
    refresh_run(store, "digits")
    assert read_registry(store)["number"].to_pylist() == list(range(1, VERSIONS + 1))
