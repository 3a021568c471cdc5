"""A process that leaves a cluster while `fit` still waits on another thread: on its own, with a real Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ray_head import RayHead, clean_environment

pytestmark = [pytest.mark.ray, pytest.mark.long]

LEAVES = """
import os, sys, tempfile, time
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray_workers.fitting import Fitting
from ray_workers import trainer


def marked(path):
    def loop():
        import time
        open(path, "w").close()
        time.sleep(1000)
    return loop


ray.init(address=sys.argv[1], log_to_driver=False)
made = TorchTrainer(marked(sys.argv[2]), scaling_config=ScalingConfig(num_workers=1),
                    run_config=RunConfig(storage_path=tempfile.mkdtemp()))
fitting = Fitting(made.fit)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.1)
trainer._end(fitting)
came_back = fitting.over(0)
ray.shutdown()
time.sleep(5)  # what a flow still has to do: an end to record, a page to write
print("came back" if came_back else "still waits", flush=True)
"""


def test_it_goes_on_to_its_end(tmp_path: Path) -> None:
    """Without that, the thread goes on in a Ray that is gone, which kills the process, most of the times."""
    with RayHead.running(cpus=1) as head:
        for number in range(2):
            done = subprocess.run(
                [sys.executable, "-c", LEAVES, head.address, str(tmp_path / f"trains-{number}")],
                env=clean_environment({}), capture_output=True, text=True, check=False, timeout=300,
            )  # fmt: skip
            assert (done.returncode, done.stdout.strip()) == (0, "came back"), done.stderr[-2000:]
