"""`pawl train`: the training flow, run here and now."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from deployments.cli_options import mode_option
from deployments.example_command import command
from deployments.own_prefect import prepare_prefect, start_prefects_server
from deployments.preflight import check_training
from deployments.train_parameters import train_parameters
from ray_workers.store.errors import PawlError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

__all__ = ["train_command"]

_CANCELLED = 3
_INTERRUPTED = 130
_TERMINATED = 143


@command(
    "train",
    "pawl train ray_workers.loops.digits:train_loop --run digits",
    "pawl train my_project.train:train_loop --run big --storage s3://bucket/runs --set lr=0.0003 --every-steps 500",
)
@click.argument("entrypoint")
@click.option("--run", help="Name of the run; the same name continues it.")
@click.option(
    "--storage",
    help="Folder, s3://bucket/prefix or pawl-storage/NAME. Default: PAWL_STORAGE, else ./pawl-store.",
)
@click.option(
    "--set",
    "-s",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Hyperparameter; VALUE is JSON or text.",
)
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="JSON file of hyperparameters."
)
@click.option("--workers", type=int, help="Training workers (default 2).")
@click.option(
    "--max-workers", type=int, help="Train with as many as there is room for, from --workers to N."
)
@click.option("--cpus-per-worker", type=float, help="CPUs each worker asks for.")
@click.option("--gpus-per-worker", type=float, help="GPUs each worker asks for.")
@click.option("--ray-address", help="Join this Ray cluster instead of starting one.")
@click.option(
    "--on-changed-workers",
    type=click.Choice(["refuse", "reshard"]),
    help="When another number of workers saved the version: refuse (default), or reshard.",
)
@click.option("--every-steps", type=int, help="Save every N steps.")
@click.option("--every-epochs", type=int, help="Save at the end of every N epochs (default 1).")
@click.option("--every-seconds", type=float, help="Save when N seconds have passed.")
@click.option(
    "--interval",
    type=click.Choice(["auto", "fixed"]),
    help="Also save at the interval of least waste (auto, default), or at thresholds alone (fixed).",
)
@click.option("--grace", type=float, help="Seconds for a last save when it is interrupted.")
@click.option("--time-limit", type=float, help="Seconds after which the process must be over.")
@click.option(
    "--hung-after",
    type=float,
    help="Seconds without a step after which a rank hangs (default 600; 0: never).",
)
@click.option("--keep-last", type=int, help="Retention: keep the newest N versions.")
@click.option(
    "--keep-every-steps", type=int, help="Retention: keep versions at multiples of N steps."
)
@click.option(
    "--keep-every-epochs",
    type=int,
    help="Retention: keep the version at the end of every N epochs.",
)
@click.option("--keep-best", type=int, help="Retention: keep the best N versions by --metric.")
@click.option("--metric", help="Metric for --keep-best (default loss).")
@mode_option
@click.option(
    "--thin",
    help="Retention by age: 1h/1d,1d keeps one an hour for a day, one a day after.",
)
@click.option(
    "--required",
    help="Rung a resume point must have: committed, verified, sound or restorable (default sound).",
)
@click.option(
    "--probe", help="module:function of a loss probe, evaluated again from the stored bytes."
)
@click.option(
    "--check", "checks", multiple=True, help="module:function of a check of your own; repeatable."
)
@click.option(
    "--option",
    "-o",
    "fields",
    multiple=True,
    metavar="GROUP.FIELD=VALUE",
    help="Any other field of scaling, saving, validation or retention, as in saving.buffers=1; repeatable.",
)
@click.option("--resume", default="auto", show_default=True, help="auto, never, or RUN@VERSION.")
@click.option(
    "--takeover", is_flag=True, help="End another attempt that still trains under this run name."
)
@click.option("--code-dir", help="Project folder of the entrypoint. Default: the current folder.")
@click.option(
    "--retries", type=click.IntRange(min=0), help="In-process retries after a failure (default 3)."
)
def train_command(entrypoint: str, **options: Any) -> None:
    """Train ENTRYPOINT (module:function), saving as it goes and resuming what was there."""
    parameters = train_parameters(entrypoint, options)
    check_training(parameters)
    prepare_prefect()
    begun: list[str] = []
    try:
        with _sigterm_exits():
            code = _run_flow(parameters, retries=options["retries"], on_begin=begun.append)
    except (KeyboardInterrupt, SystemExit) as interruption:
        _say_how_to_resume(parameters, begun)
        terminated = isinstance(interruption, SystemExit) and interruption.code == _TERMINATED
        raise SystemExit(_TERMINATED if terminated else _INTERRUPTED) from None
    raise SystemExit(code)


@contextlib.contextmanager
def _sigterm_exits() -> Iterator[None]:
    """When the flow is over Prefect gives SIGTERM to whom it belonged before; by default that ends us without a word."""

    def leave(_: int, __: FrameType | None) -> NoReturn:
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_flow(
    parameters: dict[str, Any], *, retries: int | None, on_begin: Callable[[str], None]
) -> int:
    """Its exit code. `on_begin` hears the flow run's id, which a run without a name of its own is named by."""
    from prefect import tags  # noqa: PLC0415 - as below
    from prefect.exceptions import Abort  # noqa: PLC0415 - as below

    from deployments.automations import TAG  # noqa: PLC0415 - as below
    from flows.train import train  # noqa: PLC0415 - takes seconds, and `pawl --help` must not

    start_prefects_server()
    chosen = train if retries is None else train.with_options(retries=retries)
    begun: list[str] = []

    def note_flow_run(flow: object, flow_run: FlowRun, state: object) -> None:
        del flow, state
        begun.append(str(flow_run.id))
        on_begin(begun[-1])

    chosen.on_running(note_flow_run)
    try:
        with tags(TAG):
            state = chosen(**parameters, return_state=True)
    except Abort as lost:  # to a later try of this very flow run, whose state is no more this process's to tell
        click.echo(f"Cancelled: {lost}", err=True)
        return _CANCELLED
    if state.is_completed():
        click.echo(state.message or "Training completed.")
        return 0
    if state.is_cancelled():
        click.echo(f"Cancelled: {state.message}", err=True)
        return _CANCELLED
    error = state.result(raise_on_failure=False)
    if isinstance(error, PawlError):
        raise error
    click.echo(f"{state.name}: {state.message}", err=True)
    if not isinstance(error, Exception):
        _say_how_to_resume(parameters, begun)
    return 1


def _say_how_to_resume(parameters: Mapping[str, Any], begun: Sequence[str]) -> None:
    words = sys.argv[1:]
    if _goes_back(parameters["run"], parameters["resume"]):
        words = _without_resume(words)
    if parameters["run"] is None and begun:
        words = [*words, "--run", begun[0]]
    again = shlex.join(["pawl", *words])
    click.echo(f"\nStopped. What was committed is kept. To resume:\n\n    {again}\n", err=True)


def _goes_back(run: str | None, resume: str) -> bool:
    """Whether the same line once more would give up what was committed since: it starts over, or from a version of this run."""
    return resume == "never" or (run is not None and resume.startswith(f"{run}@"))


def _without_resume(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    left = iter(words)
    for word in left:
        if word == "--resume":
            next(left, None)
        elif not word.startswith("--resume="):
            kept.append(word)
    return kept
