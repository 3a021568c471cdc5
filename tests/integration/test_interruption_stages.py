"""Every interruption on every kind of cluster, at each stage of the save in flight: `make interruptions`.

What holds the save up goes on as soon as the request was heard: then that save becomes a version, and the step that is
interrupted another one. Or it never does: then the grace runs out, and nothing that is committed is lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.integration.conftest import PrefectServer
from tests.integration.held_saves import Hold, ShardGate
from tests.integration.staged_interruptions import ASKED, BEFORE, IN_FLIGHT, StagedInterruption
from tests.support.interruption_cells import CELLS, Cell, Cluster, Stage
from tests.support.interruption_table import Row, add
from tests.support.ray_head import RayHead
from tests.support.s3_server import S3Server
from tests.support.slowness import slowness
from tests.support.wire_proxy import wire_proxy

pytestmark = [
    pytest.mark.ray,
    pytest.mark.prefect,
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]
REQUEST_S = 20.0
"""So long a request of an upload may stay without an answer before it is sent again."""
ROWS = Path(os.environ.get("PAWL_INTERRUPTIONS", "build/interruptions.jsonl"))


def params() -> list[ParameterSet]:
    return [
        pytest.param(
            cell, id=cell.key, marks=[pytest.mark.s3] if cell.stage is Stage.UPLOADING else []
        )
        for cell in CELLS
    ]


@pytest.fixture(scope="module")
def shared_head() -> Iterator[RayHead]:
    with RayHead.running(cpus=2) as made:
        yield made


@pytest.fixture
def training(
    cell: Cell, project: Path, prefect_server: PrefectServer, request: pytest.FixtureRequest
) -> Iterator[StagedInterruption]:
    """Started; on a node of its own if that is to drain, since no other cell could train there afterwards."""
    with ExitStack() as stack:
        head = None
        if cell.asked.key == "draining":
            head = stack.enter_context(RayHead.running(cpus=2))
        elif cell.cluster is Cluster.SEPARATE:
            head = request.getfixturevalue("shared_head")
        made = StagedInterruption(project, prefect_server, cell, head)
        if cell.stage is Stage.UPLOADING:
            server: S3Server = request.getfixturevalue("s3_server")
            wire, gate = stack.enter_context(wire_proxy(server.endpoint)), ShardGate()
            wire.plan = gate
            stack.callback(gate.open)
            made.store_behind(server, wire.url, gate)
        if cell.asked.by_worker:
            made.start_by_worker(request.getfixturevalue("prefect_worker"))
        else:
            made.start_by_command()
        yield made


@pytest.mark.parametrize("cell", params())
def test_a_save_in_flight_when_the_end_is_asked_for(
    cell: Cell, training: StagedInterruption, request: pytest.FixtureRequest
) -> None:
    hold = training.train_until_asked()
    asked = training.ask()
    training.go_on(hold)
    seconds = training.wait_for_the_end() - asked
    grace_s, busy = training.grace_s(), max(training.busy, slowness())
    assert seconds <= (grace_s + cell.asked.end_s) * busy, (seconds, grace_s, busy)
    if cell.goes_on:
        training.wait_until_nobody_writes()
        assert_both_are_kept(training)
    else:
        assert_nothing_came_of_it(training, hold)
    assert training.outcomes() == ["interrupted"]
    steps = training.stored.steps()
    add(
        ROWS,
        Row(
            cell=cell.key, in_flight=IN_FLIGHT in steps, interrupted=ASKED + 1 in steps,
            steps_lost=training.steps_redone(), state=cell.asked.state, exit_code=cell.asked.exit_code,
            grace_s=grace_s, seconds=seconds,
        ),
    )  # fmt: skip
    if cell.comes_back:
        assert_it_comes_back(training, request.getfixturevalue("uninterrupted"))


def assert_both_are_kept(training: StagedInterruption) -> None:
    if training.cell.asked.key == "time_limit" and training.stored.steps()[-1] == IN_FLIGHT:
        # It was held for minutes, until the limit came. Heard of in time, it is the longest save so far, and no other fits.
        assert training.held_s > training.grace_s()
        assert training.stored.steps() == [*BEFORE, IN_FLIGHT]
        assert training.steps_redone() == ASKED + 1 - IN_FLIGHT
        return
    if training.cell.stage is Stage.UPLOADING and training.stored.steps() == [*BEFORE, ASKED + 1]:
        # It was held for minutes: given up after its tries, or overtaken by the newer save while it was sent again.
        assert training.held_s > REQUEST_S
        assert f"The save of step {IN_FLIGHT} was dropped" in training.said()
        assert training.interrupted_by() == [None, None, training.cell.asked.cause]
        assert training.steps_redone() == 0
        return
    assert training.stored.steps() == [*BEFORE, IN_FLIGHT, ASKED + 1], training.said()
    assert training.interrupted_by() == [None, None, None, training.cell.asked.cause]
    assert training.steps_redone() == 0


def assert_nothing_came_of_it(training: StagedInterruption, hold: Hold) -> None:
    """Nor does anything when what stood still wakes up behind the end."""
    assert training.stored.steps() == BEFORE, training.said()
    hold.end()
    training.wait_until_nobody_writes()
    assert training.stored.steps() == BEFORE
    assert training.steps_redone() in (ASKED - BEFORE[-1], ASKED + 1 - BEFORE[-1])


def assert_it_comes_back(training: StagedInterruption, uninterrupted: list[str]) -> None:
    again = training.resume()
    assert again.wait() == 0, again.output
    assert training.stored.final_digests() == uninterrupted
