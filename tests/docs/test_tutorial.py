"""The tutorial, command by command, as a reader would type it; and the reference against the code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.prefect
@pytest.mark.timeout(3000)
def test_every_command_of_the_tutorial_works(tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "PAWL_", "RAY_"))}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env["PREFECT_HOME"] = str(tmp_path / "prefect-home")
    env["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "240"
    env["PYTHONPATH"] = str(ROOT)
    folder = tmp_path / "project"
    folder.mkdir()
    outputs = {}
    for file, text in steps():
        if file is not None:
            (folder / file).write_text(text)
            continue
        done = subprocess.run(
            ["bash", "-c", text], cwd=folder, env=env, capture_output=True, text=True, check=False,
            timeout=1200, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        outputs[text] = done.stdout
    said = next(output for command, output in outputs.items() if command.startswith("pawl search"))
    assert {"spiral", "spiral-fast"} <= set(re.findall(r"^(\S+)@\d+", said, re.MULTILINE))
    assert outputs["python use.py"].startswith("loaded 1")
    assert (folder / "comparison.html").stat().st_size > 10_000
    assert (folder / "weights" / "model.safetensors").exists()


@pytest.mark.slow
def test_the_reference_is_up_to_date():
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "make_reference.py"), "--check"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
