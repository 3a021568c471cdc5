"""Options and small habits that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from deployments.named_storage import storage_at
from ray_workers.store.attempts import read_run
from ray_workers.store.errors import VersionGoneError
from ray_workers.store.metric_mode import mode_of
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_state import RunState, VersionState
from ray_workers.store.versions import best_version, find_version, parse_reference

__all__ = [
    "Named",
    "json_option",
    "metric_option",
    "mode_option",
    "named_version",
    "print_json",
    "readable",
    "storage_option",
]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

storage_option: Decorator = click.option(
    "--storage",
    envvar="PAWL_STORAGE",
    default="./pawl-store",
    metavar="URL",
    help="Folder, s3://bucket/prefix or pawl-storage/NAME. Default: PAWL_STORAGE, else ./pawl-store.",
)
json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
metric_option: Decorator = click.option(
    "--metric", default="loss", show_default=True, help="What RUN@best goes by."
)


def _mode(context: click.Context, _: click.Parameter, given: str | None) -> str | None:
    """Click reads what was typed before what was not, so the metric is known when the mode is missing."""
    metric = context.params.get("metric")
    return mode_of(metric, given) if metric else given or "min"


mode_option: Decorator = click.option(
    "--mode",
    type=click.Choice(["min", "max"]),
    callback=_mode,
    help="Whether a smaller or a larger metric is better. Default: min, if its name says that it is a loss or an error.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What `RUN@VERSION` means right now."""

    store: ObjectStore
    run: str
    state: RunState
    version: VersionState


def named_version(
    reference: str, storage: str, *, metric: str = "loss", mode: str = "min"
) -> Named:
    """Open the store and find the version. Raises as `parse_reference`, `storage_at`, `open_root`, `find_version`."""
    run, name = parse_reference(reference)
    store = storage_at(storage).open().store
    state = read_run(store, run)
    picker = best_version(store, run, metric=metric, mode=mode)
    return Named(store=store, run=run, state=state, version=find_version(state, name, best=picker))


def readable(run: str, version: VersionState) -> VersionState:
    """`version` itself if its bytes are kept, else `VersionGoneError`."""
    if not version.readable:
        raise VersionGoneError(
            f"Version {version.number} of run {run!r} is {version.status}: its bytes are not kept any more."
        )
    return version


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, allow_nan=False))
