"""docs/deploying.md, command by command, as a reader would type it: it ends with a run that came back by itself."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from deployments.deployment_file import problems_in

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "deploying.md"
_BLOCK = re.compile(
    r"```(?P<kind>console|\w+ file=(?P<file>\S+))\n(?P<body>.*?)```", re.DOTALL
)  # fmt: skip


def steps():
    """`(file, content)` to be written and `(None, command)` to be run, in order."""
    for block in _BLOCK.finditer(PAGE.read_text()):
        if block["file"]:
            yield block["file"], block["body"]
        else:
            for line in block["body"].splitlines():
                assert line.startswith("$ "), line
                yield None, line.removeprefix("$ ")


def test_its_deployment_file_has_no_misspelled_key():
    (text,) = [body for file, body in steps() if file == "nightly.yaml"]
    assert problems_in(yaml.safe_load(text)) == []
    assert problems_in(yaml.safe_load(text.replace("job_variables", "job_variabels")))


@pytest.fixture
def folder(tmp_path):
    yield tmp_path
    for file in (tmp_path / ".pawl/stack").glob("*.pid"):
        end_tree(int(file.read_text().split()[0]))


def end_tree(pid: int) -> None:
    try:
        root = psutil.Process(pid)
        members = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in members:
        if member.is_running():
            member.send_signal(signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.ray
@pytest.mark.prefect
@pytest.mark.fault
@pytest.mark.timeout(2400)
def test_every_command_works_and_the_killed_run_comes_back(folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "PAWL_", "RAY_"))}
    env |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}",
        "PREFECT_HOME": str(folder / "home"),
        "PYTHONPATH": str(ROOT),
    }
    outputs: dict[str, str] = {}
    prelude = ""
    for file, text in steps():
        if file is not None:
            (folder / file).write_text(text)
            continue
        command = text.replace("4200", port)
        if command.startswith("source "):
            prelude = f"{command}; "
        done = subprocess.run(
            ["bash", "-c", prelude + command], cwd=folder, env=env, capture_output=True, text=True, check=False,
            timeout=1200, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        outputs[text] = done.stdout
    assert "All there" in outputs["pawl setup --check"]
    assert "died" in outputs["pawl runs"]
    told = outputs["pawl explain nightly"]
    assert "attempt 2" in told, told
    assert outputs["pawl down"].startswith("Ended: worker, server")
