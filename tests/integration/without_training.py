"""The training flow with its training left out: all that comes before it and after it, on a real Prefect server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort

import flows.train as flow_module
from deployments.cli import pawl
from tests.support.factories import MadeUpRun, folder_store

__all__ = ["LOOP", "Calls", "made_up_run", "newest_flow_run", "pawl_train", "run_flow"]

LOOP = "def loop(config):\n    raise AssertionError('training is left out here')\n"


class Calls(list[Any]):
    """What stands in for training: notes the resume point, and does what the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.act: Callable[[Any, int], None] = lambda attempt, call: None  # noqa: ARG005

    def __call__(self, attempt: Any, resume: Any) -> None:
        if attempt.finished is None:
            self.append(resume)
            self.act(attempt, len(self))


def pawl_train(*words: str, entrypoint: str = "pawl_project:loop") -> Result:
    arguments = ["train", entrypoint, "--run", "run", "--storage", "store", *words]
    return CliRunner().invoke(pawl, arguments)


_NOT_SCHEDULED = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(is_null_=True))
"""Other tests of the session leave deployments with schedules, whose next runs the server already holds."""


def newest_flow_run() -> FlowRun:
    async def read() -> FlowRun:
        async with get_client() as client:
            found = await client.read_flow_runs(
                flow_run_filter=_NOT_SCHEDULED, sort=FlowRunSort.START_TIME_DESC, limit=1
            )
            return found[0]

    return asyncio.run(read())


def made_up_run(folder: Path, name: str = "run") -> MadeUpRun:
    made = MadeUpRun(store=folder_store(folder / "store"), name=name)
    made.start()
    for step in (10, 20):
        made.commit(step)
    made.end("failed")
    return made


def run_flow(**values: Any) -> Any:
    flow = flow_module.train.with_options(retries=2, retry_delay_seconds=0)
    return flow("pawl_project:loop", run="run", storage="store", return_state=True, **values)
