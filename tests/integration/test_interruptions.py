"""Real signals to a real training: the step it interrupts becomes a version, and the same command goes on from there."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from tests.integration.conftest import PrefectServer
from tests.integration.harness import PawlProcess, new_family, wait_until
from tests.integration.test_ways_back import run_deployment
from tests.integration.traced_training import FREE, Training, read_flow_run
from tests.support.ray_head import RayHead
from tests.support.slowness import slowness

pytestmark = [pytest.mark.ray, pytest.mark.prefect, pytest.mark.timeout(1200)]

STEPS = 42
PATIENT = (
    "--every-steps",
    "1000",
    "--every-epochs",
    "1000",
    "--interval",
    "fixed",
    "--grace",
    "90",
)
"""No save of its own accord, and time enough for the last one on a busy machine."""
CTRL_C_S = 10.0
"""Promised from Ctrl-C to the prompt, beside what the step and its save took; on a machine that does nothing else."""


class Interrupted(Training):
    """A training that is interrupted: slow until then, so that it is not over before the request has reached it."""

    def begin(self, *extra: str, step_delay: float = 1.0, retries: int = 0) -> PawlProcess:
        self.step_delay = step_delay
        return self.start(*extra, retries=retries)

    def resume(self) -> PawlProcess:
        return self.begin(step_delay=0.0)


def phases(process: PawlProcess) -> dict[str, float]:
    """Seconds by phase of an end that was asked for, as the log tells."""
    told = re.search(r"Ended after [^:]+: (.+ s)\.", process.output)
    assert told is not None, process.output
    pairs = (part.rsplit(" ", 2) for part in told[1].split(", "))
    return {phase: float(seconds) for phase, seconds, _ in pairs}


@pytest.fixture
def training(project: Path, prefect_server: PrefectServer) -> Interrupted:
    return Interrupted(project, prefect_server)


@pytest.mark.long
def test_ctrl_c_saves_the_step_it_interrupts_and_the_same_command_resumes(
    training: Interrupted, uninterrupted: list[str]
) -> None:
    process = training.begin(*PATIENT)
    wait_until(lambda: training.steps_done() >= 5, what="some steps")
    asked = time.monotonic()
    process.ctrl_c()
    assert process.wait() == 130, process.output
    took = time.monotonic() - asked
    busy = slowness()
    spent = phases(process)
    assert took - spent["workers"] <= CTRL_C_S * busy, (took, spent, busy, process.output)
    (version,) = training.stored.state.newest_first()
    assert version.step == training.steps_done() < STEPS
    assert training.interrupted_by() == ["Ctrl-C"]
    assert training.outcomes() == ["interrupted"]
    assert training.flow_run().state_name == "Crashed"
    assert "To resume:" in process.output
    assert " ".join(process.command[1:4]) in process.output.split("To resume:")[1]
    again = training.resume()
    assert again.wait() == 0, again.output
    assert training.stored.final_digests() == uninterrupted
    assert training.steps_done() == STEPS


@pytest.mark.slow
def test_ctrl_c_leaves_the_embedded_prefect_server_time_to_hear_of_it(
    training: Interrupted, tmp_path: Path, uninterrupted: list[str]
) -> None:
    home = {"PREFECT_API_URL": "", "PREFECT_HOME": str(tmp_path / "home")}
    training.environment.update(home)
    process = training.begin(*PATIENT)
    wait_until(lambda: training.steps_done() >= 5, what="some steps")
    process.ctrl_c()
    assert process.wait() == 130, process.output
    assert training.interrupted_by() == ["Ctrl-C"]
    assert "Finished in state Crashed" in process.output
    assert "ConnectError" not in process.output
    again = training.resume()
    assert again.wait() == 0, again.output
    assert training.stored.final_digests() == uninterrupted


@pytest.mark.slow
def test_sigterm_saves_and_ends_as_crashed(training: Interrupted, uninterrupted: list[str]) -> None:
    process = training.begin(*PATIENT)
    wait_until(lambda: training.steps_done() >= 5, what="some steps")
    process.process.send_signal(signal.SIGTERM)
    assert process.wait() == 143, process.output
    assert training.interrupted_by() == ["SIGTERM"]
    assert training.flow_run().state_name == "Crashed"
    assert "To resume:" in process.output
    again = training.resume()
    assert again.wait() == 0, again.output
    assert training.stored.final_digests() == uninterrupted
    assert training.steps_done() == STEPS


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("stage", ["NodeAgent", "CheckpointActor"])
@pytest.mark.parametrize("ended_by", ["second signal", "grace"])
def test_a_save_that_hangs_is_left_behind_and_nothing_committed_is_lost(
    training: Interrupted, uninterrupted: list[str], stage: str, ended_by: str
) -> None:
    """The agent stands still: staged, not uploaded. The checkpoint actor stands still: uploaded, not committed."""
    grace = ["--grace", "90"] if ended_by == "second signal" else ["--grace", "5"]
    process = training.begin("--every-epochs", "1000", *grace)
    training.stored.wait_for_versions(1)
    before = training.stored.committed()
    for stopped in process.actors(stage):
        stopped.send_signal(signal.SIGSTOP)
    seen = training.steps_done()
    process.ctrl_c()
    wait_until(lambda: "the workers end at their next step" in process.output, what="the request")
    if ended_by == "second signal":
        wait_until(lambda: training.steps_done() > seen, what="the interrupted step")
        process.ctrl_c()
    assert process.wait() == 130, process.output
    assert training.stored.committed() in (before, before + 1)  # one may have been on its way
    again = training.resume()
    assert again.wait() == 0, again.output
    assert training.stored.final_digests() == uninterrupted


@pytest.mark.slow
def test_a_cancelled_run_saves_and_stays_cancelled(
    training: Interrupted, uninterrupted: list[str], prefect_worker: Path
) -> None:
    training.step_delay = 1.0
    flow_run_id = run_deployment(training, FREE, new_family())
    training.stored.wait_for_versions(1)
    training.server.cli("flow-run", "cancel", flow_run_id)
    wait_until(
        lambda: read_flow_run(training.server, flow_run_id).state_name == "Cancelled",
        what=f"Cancelled; worker log {prefect_worker}",
    )
    assert training.interrupted_by()[-1] == "SIGTERM"
    (attempt,) = training.stored.state.attempts.values()
    assert (attempt.outcome, attempt.reason) == ("interrupted", "cancelled")
    assert read_flow_run(training.server, flow_run_id).run_count == 1
    again = training.resume()
    assert again.wait() == 0, again.output
    assert training.stored.final_digests() == uninterrupted
    assert training.steps_done() == STEPS


@pytest.mark.slow
def test_at_its_time_limit_it_saves_and_can_be_retried(
    training: Interrupted, uninterrupted: list[str]
) -> None:
    # 420 s of steps: still training at the limit on any machine, and past its first steps on one that starts for minutes.
    process = training.begin(
        "--every-steps", "1000", "--time-limit", "400", retries=3, step_delay=10.0
    )
    assert process.wait() == 75, process.output
    assert training.interrupted_by()[-1] == "time limit"
    flow_run = training.flow_run()
    assert (flow_run.state_name, flow_run.run_count) == ("Failed", 1)
    assert flow_run.state is not None
    assert "time limit" in str(flow_run.state.message)
    again = training.resume()
    assert again.wait() == 0, again.output
    assert training.stored.final_digests() == uninterrupted
    assert training.steps_done() == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("how", ["drained", "terminated"])
def test_a_draining_node_is_left_with_a_version(
    training: Interrupted, uninterrupted: list[str], how: str
) -> None:
    training.environment["RAY_AUTH_MODE"] = "disabled"
    with RayHead.running(cpus=2) as head:
        process = training.begin(*PATIENT, "--ray-address", head.address)
        wait_until(lambda: training.steps_done() >= 5, what="some steps")
        if how == "drained":
            head.drain(deadline_s=120)
        else:
            head.terminate()
        assert process.wait() == 75, process.output
    assert training.interrupted_by() == ["node draining"]
    again = training.resume()
    assert again.wait() == 0, again.output
    assert training.stored.final_digests() == uninterrupted
    assert training.steps_done() == STEPS
