from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from deployments.bringing_back import BROUGHT_BACK
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


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Plays `up` without a process, over a block that holds what it is called with; the words of `pawl setup`."""

    def play(held: dict[str, str] | None, said: str = "") -> tuple[list[str], list[str]]:
        words: list[str] = []
        told: list[str] = []

        def run(command, **_):
            words.extend(command[1:])
            return subprocess.CompletedProcess(command, 0, stdout=said, stderr="")

        def get(url, **_):
            assert url.endswith("/block_types/slug/pawl-storage/block_documents/name/main")
            request = httpx.Request("GET", url)
            if held is None:
                return httpx.Response(404, request=request)
            return httpx.Response(200, request=request, json={"data": held})

        for method in ("_start_server", "_start_worker"):
            monkeypatch.setattr(LocalStack, method, lambda _: None)
        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setattr(httpx, "get", get)
        LocalStack(project=tmp_path, folder=tmp_path, with_s3=False, tell=told.append).up()
        return words, told

    return play


def test_a_storage_block_that_is_absent_or_the_stacks_own_is_written(started, tmp_path):
    store = str(tmp_path / "store")
    local = {"url": "s3://pawl", "endpoint_url": "http://127.0.0.1:7480"}
    for held in (None, {"url": store}, local):
        words, told = started(held)
        assert words == ["setup", "--storage", store]
        assert not any("yours" in line for line in told)
        assert f"PAWL_STORAGE={store}" in (tmp_path / "env.sh").read_text()


@pytest.mark.parametrize(
    "held",
    [
        {"url": "s3://ours/pawl"},
        {"url": "s3://pawl", "endpoint_url": "https://s3.example"},
        {"url": "s3://pawl"},
        {"url": "s3://pawl", "endpoint_url": "http://127.0.0.1:7480", "root": "team-a"},
    ],
)
def test_a_storage_block_of_the_users_stays_and_the_shell_is_not_led_elsewhere(
    started, tmp_path, held
):
    words, told = started(held)
    assert words == ["setup"]
    assert f"pawl-storage/main is yours and stays as it is: {held['url']}" in told
    assert "PAWL_STORAGE" not in (tmp_path / "env.sh").read_text()


def test_what_was_brought_back_is_told(started):
    line = f"{BROUGHT_BACK}flow run 'x'"
    _, told = started(None, said=f"  7 deployments: already there\n{line}\n")
    assert line in told
    assert not any("7 deployments" in each for each in told)


def test_leases_outlive_the_stacks_server(monkeypatch, tmp_path):
    """Lost ones end every run of a deployment with a limit. They lie in the server's home."""
    started: list[dict[str, str]] = []
    answers = iter([False, True])
    monkeypatch.setattr(Part, "start", lambda _self, _command, env, _cwd: started.append(dict(env)))
    monkeypatch.setattr(LocalStack, "_answers", lambda _: next(answers))
    LocalStack(project=tmp_path, folder=tmp_path, tell=lambda _: None)._start_server()
    (env,) = started
    storage = importlib.import_module(env["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"])
    assert "concurrency_leases" in inspect.getsource(storage)
    assert env["PREFECT_HOME"] == str(tmp_path / "prefect")
