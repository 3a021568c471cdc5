"""Does every pin of constraints.txt have a wheel for a Python that is not installed here? `python -m tests.support.wheel_check`.

pip resolves `.[dev]` for each version as if it were installing there, downloads metadata alone and installs nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["VERSIONS", "pins", "problems"]

VERSIONS = ("3.12", "3.13")
_ROOT = Path(__file__).parents[2]
_OWN = "pawl"


def pins(lines: Iterable[str]) -> dict[str, str]:
    """Version by normalised name, markers left aside."""
    plain = (line.partition("#")[0].partition(";")[0].strip() for line in lines)
    found = (line.partition("==") for line in plain if "==" in line)
    return {_normal(name): version.strip() for name, _, version in found}


def problems(report: Mapping[str, Any], pinned: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with pip's report: a package without a wheel, or in a version that nobody pinned."""
    for item in report["install"]:
        name, version = _normal(item["metadata"]["name"]), item["metadata"]["version"]
        if name == _OWN:
            continue
        if not item["download_info"]["url"].partition("#")[0].endswith(".whl"):
            yield f"{name} {version} has no wheel"
        if pinned.get(name) != version.partition("+")[0]:
            yield f"{name} {version} is not pinned"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _resolve(version: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--only-binary=:all:",
            "--python-version", version, "--target", folder, "--report", str(report),
            ".[dev]", "--constraint", "constraints.txt",
        ]  # fmt: skip
        subprocess.run(command, cwd=_ROOT, check=True)
        answer: dict[str, Any] = json.loads(report.read_text())
        return answer


def main() -> int:
    pinned = pins((_ROOT / "constraints.txt").read_text().splitlines())
    bad = 0
    for version in VERSIONS:
        report = _resolve(version)
        found = list(problems(report, pinned))
        bad += len(found)
        sys.stdout.write(
            f"Python {version}: {len(report['install'])} packages, {len(found)} problems\n"
        )
        sys.stdout.writelines(f"  {line}\n" for line in found)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
