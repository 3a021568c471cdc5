"""`pawl promote`: the promotion flow, run here and now."""

from __future__ import annotations

from typing import Any

import click

from deployments.cli_options import json_option, mode_option, print_json, storage_option
from deployments.example_command import command
from deployments.own_prefect import prepare_prefect
from deployments.preflight import check_named
from ray_workers.store.errors import InvalidInputError, PawlError
from ray_workers.store.versions import parse_reference

__all__ = ["promote_command"]

_FAILED = 1
_CANCELLED = 3


@command(
    "promote",
    "pawl promote digits@best",
    "pawl promote digits@12 --threshold 0.2 --approval",
    "pawl promote digits@sound --tag candidate --metric accuracy --mode max --allowed-regression 0.01",
)
@click.argument("reference", metavar="RUN@V")
@click.option("--tag", default="production", show_default=True)
@click.option(
    "--required",
    type=click.Choice(["committed", "verified", "sound", "restorable"]),
    default="sound",
    show_default=True,
    help="Rung that the version must have reached.",
)
@click.option(
    "--metric",
    default="loss",
    show_default=True,
    help="What RUN@best goes by, and compared with the version that has the tag; '' for none.",
)
@mode_option
@click.option("--threshold", type=float, help="The metric must be at least as good as this.")
@click.option(
    "--allowed-regression",
    type=float,
    default=0.0,
    show_default=True,
    help="Share by which it may be worse than the holder.",
)
@click.option("--no-drill", is_flag=True, help="Do not load the weights first.")
@click.option(
    "--approval", is_flag=True, help="Pause until a person approves on the flow run's page."
)
@storage_option
@json_option
def promote_command(
    reference: str, *, tag: str, storage: str, as_json: bool, **options: Any
) -> None:
    """Move a tag to RUN@V if it passes the gate."""
    parse_reference(reference)
    gate = _gate(options)
    by = {"metric": options["metric"], "mode": options["mode"]} if options["metric"] else {}
    check_named([reference], storage, **by)
    prepare_prefect()
    from flows.promote import promote  # noqa: PLC0415 - takes seconds, and `pawl --help` must not

    state = promote(reference, tag=tag, storage=storage, gate=gate, return_state=True)
    failure = None if state.is_cancelled() else _failure(state)
    if isinstance(failure, PawlError):
        raise failure
    done = state.is_completed()
    if as_json:
        print_json({"promoted": done, "tag": tag, "state": state.name, "message": state.message})
    else:
        click.echo(state.message if done else f"{state.name}: {state.message}", err=not done)
    if not done:
        raise SystemExit(_CANCELLED if state.is_cancelled() else _FAILED)


def _gate(options: dict[str, Any]) -> Any:
    from ray_workers.config import PromotionGate  # noqa: PLC0415 - pydantic

    try:
        return PromotionGate(
            required=options["required"],
            metric=options["metric"] or None,
            mode=options["mode"],
            threshold=options["threshold"],
            allowed_regression=options["allowed_regression"],
            drill=not options["no_drill"],
            approval=options["approval"],
        )
    except ValueError as error:
        raise InvalidInputError(
            f"The gate cannot be used: {str(error).splitlines()[-1].strip()}"
        ) from None


def _failure(state: Any) -> object:
    return None if state.is_completed() else state.result(raise_on_failure=False)
