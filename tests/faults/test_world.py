"""Whatever the simulation finds can be played again: nothing in it hangs on a clock, a process or a hash."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.fault, pytest.mark.long]

SEEDS = range(62_260, 62_275)
PLAY = f"""
import hashlib
from tests.support.simulation.copied_store import CopiedStore
from tests.support.simulation.histories import Mix, play_history
from tests.support.simulation.world import simulated

with simulated(cache_every=3):
    for seed in range({SEEDS.start}, {SEEDS.stop}):
        store = CopiedStore()
        play_history(seed, Mix(), store)
        print(seed, hashlib.sha256(repr(store.objects).encode()).hexdigest())
"""


def test_a_seed_leaves_the_same_bytes_in_every_process():
    left = [
        subprocess.run(
            [sys.executable, "-c", PLAY],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True, capture_output=True, text=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]  # fmt: skip
    assert left[0].count("\n") == len(SEEDS)
    assert left[0] == left[1]
