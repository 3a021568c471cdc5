"""`pawl drill`: restore a version as a resume would, here and now."""

from __future__ import annotations

from typing import Any

import click

from deployments.cli_options import json_option, print_json, storage_option
from deployments.example_command import command
from deployments.own_prefect import prepare_prefect
from deployments.preflight import check_named
from ray_workers.store.errors import InvalidInputError, PawlError
from ray_workers.store.keys import check_run_name
from ray_workers.store.versions import parse_reference

__all__ = ["drill_command"]


@command("drill", "pawl drill digits", "pawl drill digits@12 --code-dir ~/my-project")
@click.argument("references", metavar="RUN[@V]...", nargs=-1, required=True)
@click.option(
    "--undrilled",
    is_flag=True,
    help="Of a run without a version: the oldest that no drill has restored, not the newest sound one.",
)
@click.option(
    "--entrypoint", help="The loop, module:function. Default: the one that made the version."
)
@click.option("--ray-address", help="Join this Ray cluster instead of starting one.")
@click.option("--code-dir", help="Project folder of the entrypoint. Default: the current folder.")
@click.option(
    "--metric", default="loss", show_default=True, help="Compared with the next recorded step."
)
@click.option(
    "--timeout", "timeout_s", type=float, default=1800.0, show_default=True, metavar="SECONDS",
    help="Longest time from a worker's start to the end of its first step.",
)  # fmt: skip
@storage_option
@json_option
def drill_command(
    references: tuple[str, ...], *, storage: str, as_json: bool, **options: Any
) -> None:
    """Restore RUN[@V] on fresh workers, take one step, compare, and record it as restorable."""
    drilling = _drilling(len(references), options)
    for reference in references:
        if "@" in reference:
            parse_reference(reference)
        else:
            check_run_name(reference)
    check_named(references, storage)
    prepare_prefect()
    from flows.drill import drill  # noqa: PLC0415 - takes seconds, and `pawl --help` must not

    state = drill(
        versions=list(references),
        storage=storage,
        drilling=drilling,
        entrypoint=options["entrypoint"],
        ray_address=options["ray_address"],
        code_dir=options["code_dir"],
        return_state=True,
    )
    passed = state.is_completed()
    failure = None if passed else state.result(raise_on_failure=False)
    if isinstance(failure, PawlError):
        raise failure
    if as_json:
        print_json({"passed": passed, "state": state.name, "message": state.message})
    else:
        click.echo(state.message if passed else f"{state.name}: {state.message}", err=not passed)
    if not passed:
        raise SystemExit(1)


def _drilling(count: int, options: dict[str, Any]) -> Any:
    from ray_workers.config import Drilling  # noqa: PLC0415 - pydantic

    try:
        return Drilling(
            pick="undrilled" if options["undrilled"] else "newest",
            most=count,
            metric=options["metric"],
            timeout_seconds=options["timeout_s"],
        )
    except ValueError as error:
        raise InvalidInputError(
            f"The drill cannot be made: {str(error).splitlines()[-1].strip()}"
        ) from None
