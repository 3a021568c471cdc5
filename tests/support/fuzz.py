"""`make fuzz`: whatever reads stored bytes is given altered and damaged ones, for so many minutes.

    python -m tests.support.fuzz --minutes 10

Hypothesis alters valid objects and whole stores, round after round, each with a seed of its own. Where atheris is
installed, half of the time goes to libFuzzer, which follows the coverage of each parser. Ends with 1 at the first
finding, and says what plays it again.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_EXAMPLES = 400
_TARGETS = (
    "strict JSON",
    "record",
    "manifest",
    "shard header",
    "root",
    "sealed record",
    "canonical manifest",
    "sealed cache",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play until the time is over; the exit status."""
    parser = argparse.ArgumentParser(
        prog="make fuzz", description="Hostile bytes, for a bounded time."
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="findings, corpus")
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    options = parser.parse_args(arguments)
    seconds = 60 * options.minutes
    guided = importlib.util.find_spec("atheris") is not None
    if not guided:
        _say("atheris is not installed (pip install '.[fuzz]'): Hypothesis alone")
    share = seconds / 2 if guided else seconds
    return _rounds(share, options.seed) or (guided and _guided(share, options.folder)) or 0


def _rounds(seconds: float, seed: int) -> int:
    """Rounds of Hypothesis; one that has begun is played to its end."""
    until = time.monotonic() + seconds
    rounds = 0
    while rounds == 0 or time.monotonic() < until:
        number = seed + rounds
        command = (
            sys.executable, "-m", "pytest", "tests/fuzz", "-q", "-x", "-n0", "--no-header",
            "-p", "no:cacheprovider", f"--hypothesis-seed={number}",
        )  # fmt: skip
        profile = {"HYPOTHESIS_PROFILE": "fuzz", "PAWL_FUZZ_EXAMPLES": str(_EXAMPLES)}
        done = subprocess.run(
            command, env={**os.environ, **profile}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            _say(f"{done.stdout[-6000:]}\nA finding. Again: make fuzz SEED={number}")
            return 1
        rounds += 1
        _say(
            f"round {rounds}, seed {number}: {_EXAMPLES} examples a test, {done.stdout.split(chr(10))[-2]}"
        )
    return 0


def _guided(seconds: float, folder: Path) -> int:
    """libFuzzer on each parser, for an equal part of the time."""
    for name in _TARGETS:
        place = folder / name.replace(" ", "-")
        place.mkdir(parents=True, exist_ok=True)
        command = (
            sys.executable, "-m", "tests.support.coverage_guided", name,
            str(max(1, round(seconds / len(_TARGETS)))), str(place),
        )  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            _say(
                f"{(done.stdout + done.stderr)[-6000:]}\nA finding in {name}: the input lies in {place}"
            )
            return 1
        _say(f"{name}: {_statistics(done.stderr)}")
    return 0


def _statistics(said: str) -> str:
    found = dict(re.findall(r"stat::(\w+):\s+(\d+)", said))
    covered = re.findall(r"cov: (\d+)", said)
    runs, peak = (int(found.get(n, 0)) for n in ("number_of_executed_units", "peak_rss_mb"))
    return f"{runs:,} inputs, {covered[-1] if covered else 0} branches covered, {peak} MiB at most"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
