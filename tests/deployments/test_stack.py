from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from deployments.stack import LocalStack, Part
from ray_workers.store.errors import InvalidInputError, PawlError

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]
PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)",
]


@pytest.fixture
def part(tmp_path):
    part = Part(folder=tmp_path, name="worker")
    yield part
    part.end()


def test_what_was_started_is_found_by_another_process_and_ended_with_its_children(part, tmp_path):
    part.start(PARENT, {}, tmp_path)
    running = Part(folder=tmp_path, name="worker").running()
    assert running is not None
    deadline = time.monotonic() + 60
    while not (children := running.children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children
    assert part.end() is True
    assert not any(p.is_running() and p.status() != "zombie" for p in [running, *children])
    assert part.running() is None
    assert part.end() is False


def test_a_pid_that_belongs_to_somebody_else_now_is_left_alone(part, tmp_path):
    part.start(SLEEPS, {}, tmp_path)
    innocent = part.running()
    assert innocent is not None
    file = tmp_path / "worker.pid"
    true = file.read_text()
    file.write_text(f"{innocent.pid} {innocent.create_time() - 1000}")
    assert part.end() is False
    assert psutil.pid_exists(innocent.pid)
    file.write_text(true)


def test_a_damaged_pid_file_is_nobodys(part, tmp_path):
    (tmp_path / "worker.pid").write_text("soon")
    assert part.running() is None


def test_what_does_not_start_is_named_with_the_end_of_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    stack = LocalStack(project=tmp_path, folder=tmp_path / "s", with_s3=False, port=9, tell=print)
    with pytest.raises(PawlError, match=r"The server did not start; .*server\.log"):
        stack.up()
    assert stack.status() == {"worker": False, "server": False, "s3": False}
    assert stack.down() == []


def test_another_server_on_the_port_is_not_taken_for_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(LocalStack, "_answers", lambda _: True)
    stack = LocalStack(project=tmp_path, folder=tmp_path / "s", with_s3=False, tell=print)
    with pytest.raises(InvalidInputError, match="Something else answers"):
        stack.up()


def test_a_shell_that_sources_the_file_has_server_storage_and_keys_and_nobody_else_reads_it(
    tmp_path,
):
    stack = LocalStack(project=tmp_path, folder=tmp_path, port=4321, tell=print)
    stack.shell_file.write_text("old")
    stack._write_shell("s3://pawl", {"AWS_SECRET_ACCESS_KEY": "it's $HOME"})
    told = subprocess.run(
        ["bash", "-c", f'. {stack.shell_file}; echo "$PREFECT_API_URL|$PAWL_STORAGE|$AWS_SECRET_ACCESS_KEY"'],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert told == "http://127.0.0.1:4321/api|s3://pawl|it's $HOME\n"
    assert stack.shell_file.stat().st_mode & 0o777 == 0o600
