"""`pawl train`: the training flow, run here and now."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from deployments.example_command import command
from deployments.own_prefect import prepare_prefect, start_prefects_server
from deployments.preflight import check_training
from ray_workers.store.errors import InvalidInputError, PawlError

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
@click.option("--keep-best", type=int, help="Retention: keep the best N versions by --metric.")
@click.option("--metric", help="Metric for --keep-best (default loss).")
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
@click.option("--resume", default="auto", show_default=True, help="auto, never, or RUN@VERSION.")
@click.option(
    "--takeover", is_flag=True, help="End another attempt that still trains under this run name."
)
@click.option("--code-dir", help="Project folder of the entrypoint. Default: the current folder.")
@click.option(
    "--retries", type=click.IntRange(min=0), help="In-process retries after a failure (default 3)."
)
def train_command(
    entrypoint: str, settings: tuple[str, ...], config_file: Path | None, **options: Any
) -> None:
    """Train ENTRYPOINT (module:function), saving as it goes and resuming what was there."""
    config = {**_read_config(config_file), **dict(_setting(text) for text in settings)}
    parameters = _parameters(entrypoint, config, options)
    check_training(parameters)
    prepare_prefect()
    try:
        with _sigterm_exits():
            code = _run_flow(parameters, retries=options["retries"])
    except (KeyboardInterrupt, SystemExit) as interruption:
        _say_how_to_resume()
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


def _run_flow(parameters: dict[str, Any], *, retries: int | None) -> int:
    from prefect import tags  # noqa: PLC0415 - as below
    from prefect.exceptions import Abort  # noqa: PLC0415 - as below

    from deployments.automations import TAG  # noqa: PLC0415 - as below
    from flows.train import train  # noqa: PLC0415 - takes seconds, and `pawl --help` must not

    start_prefects_server()
    chosen = train if retries is None else train.with_options(retries=retries)
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
        _say_how_to_resume()
    return 1


def _parameters(entrypoint: str, config: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    from ray_workers.config import (  # noqa: PLC0415 - pydantic, for train alone
        Retention,
        Saving,
        Scaling,
        Validation,
        check_training_config,
    )

    def given(**named: Any) -> dict[str, Any]:
        return {name: value for name, value in named.items() if value is not None}

    try:
        return {
            "entrypoint": entrypoint,
            # Checked here too: Prefect keeps and shows the parameters of a flow run, even of one that is refused.
            "config": check_training_config(config),
            "run": options["run"],
            "storage": _checked_storage(options["storage"]),
            "scaling": Scaling(
                **given(
                    workers=options["workers"],
                    max_workers=options["max_workers"],
                    cpus_per_worker=options["cpus_per_worker"],
                    gpus_per_worker=options["gpus_per_worker"],
                    ray_address=options["ray_address"],
                    on_changed_workers=options["on_changed_workers"],
                    hung_after_seconds=options["hung_after"],
                )
            ),
            "saving": Saving(
                **given(
                    every_steps=options["every_steps"],
                    every_epochs=options["every_epochs"],
                    every_seconds=options["every_seconds"],
                    interval=options["interval"],
                    grace_seconds=options["grace"],
                    time_limit_seconds=options["time_limit"],
                )
            ),
            "validation": Validation(
                **given(
                    required=options["required"],
                    probe=options["probe"],
                    checks=options["checks"],
                )
            ),
            "retention": Retention(
                **given(
                    keep_last=options["keep_last"],
                    keep_every_steps=options["keep_every_steps"],
                    keep_best=options["keep_best"],
                    metric=options["metric"],
                )
            ),
            "resume": options["resume"],
            "takeover": options["takeover"],
            "code_dir": options["code_dir"],
        }
    except ValueError as error:
        raise InvalidInputError(_first_problem(error)) from None


def _checked_storage(storage: str | None) -> str | None:
    """As given. Raises `InvalidInputError` for a URL with keys in it, which would be shown as a parameter."""
    from ray_workers.store.opening import normalise_url  # noqa: PLC0415 - for train alone

    if storage is not None:
        normalise_url(storage)
    return storage


def _first_problem(error: ValueError) -> str:
    """One sentence of what pydantic found."""
    problems: list[dict[str, Any]] = getattr(error, "errors", list)()
    if not problems:
        return str(error)
    first = problems[0]
    name = ".".join(str(part) for part in first["loc"])
    if not name:  # a rule between several values
        return f"{first['msg'].removeprefix('Value error, ')}."
    return f"The value {first.get('input')!r} for {name} cannot be used: {first['msg']}."


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InvalidInputError(
            "A --set is not of the form KEY=VALUE: it lacks the '=' or the key."
        )
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"The configuration file {path} cannot be read: {error}.") from None
    if not isinstance(config, dict):
        raise InvalidInputError(f"The configuration file {path} must hold a JSON object.")
    return config


def _say_how_to_resume() -> None:
    again = shlex.join(["pawl", *sys.argv[1:]])
    click.echo(f"\nStopped. What was committed is kept. To resume:\n\n    {again}\n", err=True)
