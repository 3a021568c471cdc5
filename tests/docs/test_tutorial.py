"""The tutorial, command by command, as a reader would type it; and the reference against the code."""

import contextlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.harness import wait_until

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
_BLOCK = re.compile(r"```(?P<kind>console|python file=(?P<file>\S+))\n(?P<body>.*?)```", re.DOTALL)


def steps():
    """`(file, content)` to be written and `(None, command)` to be run, in order."""
    for block in _BLOCK.finditer(TUTORIAL.read_text()):
        if block["file"]:
            yield block["file"], block["body"]
        else:
            for line in block["body"].splitlines():
                assert line.startswith("$ "), line
                yield None, line.removeprefix("$ ")


def test_the_tutorial_has_files_and_commands():
    found = list(steps())
    assert {file for file, _ in found if file} == {"spiral.py", "use.py", "schedule.py"}
    assert sum(file is None for file, _ in found) >= 15


class Reader:
    """Types the tutorial into a shell, in a folder and with a Prefect home of its own; its server has a free port."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])
        self.folder = folder / "project"
        self.folder.mkdir()
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "PAWL_", "RAY_"))
        }
        self.env = {
            **clean,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}",
            "PREFECT_HOME": str(folder / "prefect-home"),
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "240",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_API_PORT": self.port,
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def write(self, file, text):
        # An hour is too long for a test: the scheduler is the same.
        (self.folder / file).write_text(text.replace("interval=3600", "interval=20"))

    def type(self, text):
        done = subprocess.run(
            ["bash", "-c", text.replace("4200", self.port)], cwd=self.folder, env=self.env, capture_output=True,
            text=True, check=False, timeout=1200, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}\n{self.log()}"
        return done.stdout

    def settle(self, command):
        """Wait as long as a person is slower than a script: what was started in the background is there."""
        if command.startswith("prefect server start"):
            wait_until(lambda: self.ask("GET", "health"), 300, "the server")
        if command.startswith("nohup python schedule.py"):
            name = "deployments/name/pawl-train/nightly"
            wait_until(lambda: self.ask("GET", name), 300, f"the deployment\n{self.log()}")

    def ask(self, method, path, **body):
        """What the server answers; None while it does not, or has no such thing."""
        try:
            answer = httpx.request(method, f"http://127.0.0.1:{self.port}/api/{path}", json=body or None, timeout=20)  # fmt: skip
        except httpx.HTTPError:
            return None
        return answer.json() if answer.status_code == httpx.codes.OK else None

    def log(self):
        file = self.folder / "schedule.log"
        return file.read_text()[-5000:] if file.exists() else ""

    def ended_runs(self, flow):
        """State and whether the scheduler made it, of the flow's runs that ended."""
        runs = self.ask("POST", "flow_runs/filter", flows={"name": {"any_": [flow]}}) or []
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        return [(r["state_type"], r["auto_scheduled"]) for r in runs if r["state_type"] in final]

    def leave(self):
        """End what was left running in the background: it works in our folder, or has our home in its environment."""
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("PREFECT_HOME") == self.env["PREFECT_HOME"]
            except psutil.Error:
                continue
            if ours and process.pid != os.getpid():
                with contextlib.suppress(psutil.Error):
                    process.kill()


@pytest.fixture
def reader(tmp_path):
    reader = Reader(tmp_path)
    yield reader
    reader.leave()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.prefect
@pytest.mark.timeout(3000)
def test_every_command_of_the_tutorial_works(reader):
    outputs = {}
    for file, text in steps():
        if file is None:
            outputs[text] = reader.type(text)
            reader.settle(text)
        else:
            reader.write(file, text)
    said = next(output for command, output in outputs.items() if command.startswith("pawl search"))
    assert {"spiral", "spiral-fast"} <= set(re.findall(r"^(\S+)@\d+", said, re.MULTILINE))
    assert outputs["python use.py"].startswith("loaded 1")
    assert (reader.folder / "comparison.html").stat().st_size > 10_000
    assert (reader.folder / "weights" / "model.safetensors").exists()
    assert ("COMPLETED", False) in reader.ended_runs("pawl-train"), reader.log()
    assert "attempt 3" in outputs["pawl lineage spiral"]
    # What the schedule itself started, not we.
    wait_until(lambda: ("COMPLETED", True) in reader.ended_runs("pawl-health"), 300, "a scheduled health run")  # fmt: skip


@pytest.mark.slow
def test_the_reference_is_up_to_date():
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "make_reference.py"), "--check"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
