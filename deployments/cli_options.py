"""Options and small habits that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from ray_workers.store.attempts import read_run
from ray_workers.store.errors import VersionGoneError
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import open_root
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
    help="Folder or s3://bucket/prefix. Default: PAWL_STORAGE, else ./pawl-store.",
)
json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
metric_option: Decorator = click.option(
    "--metric", default="loss", show_default=True, help="What RUN@best goes by."
)
mode_option: Decorator = click.option(
    "--mode",
    type=click.Choice(["min", "max"]),
    default="min",
    show_default=True,
    help="Whether a smaller or a larger metric is better.",
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
    """Open the store and find the version. Raises as `parse_reference`, `open_root`, `find_version`."""
    run, name = parse_reference(reference)
    store = open_root(storage, create=False).store
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
