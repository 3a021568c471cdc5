"""`pawl up` and `pawl down`: Prefect, S3 and a worker on this machine, to try Pawl as it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deployments.ceph import missing_commands
from deployments.example_command import command

if TYPE_CHECKING:
    from deployments.stack import LocalStack

__all__ = ["down_command", "up_command"]

_FOLDER = Path(".pawl/stack")


@command("up", "pawl up", "pawl up --no-s3 --port 4201")
@click.option("--port", type=int, default=4200, show_default=True, help="Of the Prefect server.")
@click.option(
    "--s3/--no-s3",
    "with_s3",
    default=None,
    help="Start Ceph's S3 gateway, or keep versions in a folder. Default: S3 if Ceph is installed.",
)
def up_command(*, port: int, with_s3: bool | None) -> None:
    """Start a Prefect server, an S3 server and a worker here, and set everything up.

    Running it again starts what has ended, and keeps what you have set: deployments, and the block pawl-storage/main if it
    points elsewhere. Runs that ended with the server are brought back, after a watch of 90 seconds if there are any.
    """
    missing = missing_commands()
    if with_s3 is None:
        with_s3 = not missing
        if missing:
            click.echo("Ceph is not installed (make setup-s3): versions are kept in a folder.")
    stack = _stack(port=port, with_s3=with_s3)
    stack.up()
    click.echo(
        f"\nOpen {stack.ui_url}. For `prefect` and `pawl` in this shell:\n\n"
        f"    source {stack.shell_file.relative_to(stack.project)}\n\n"
        "Start a run from the UI (Deployments, train, Run), or:\n\n"
        "    prefect deployment run pawl-train/train --param run=first\n\n"
        "End it all with `make down` (or `pawl down`); data and history stay in .pawl/."
    )


@command("down", "pawl down")
def down_command() -> None:
    """End what `pawl up` started here. Runs that are training stop; the next `pawl up` brings back those with tries left."""
    ended = _stack(port=4200, with_s3=False).down()
    click.echo(f"Ended: {', '.join(ended)}." if ended else "Nothing was running.")


def _stack(*, port: int, with_s3: bool) -> LocalStack:
    from deployments.stack import LocalStack  # noqa: PLC0415 - Prefect takes seconds, and `pawl --help` must not

    project = Path.cwd()
    return LocalStack(
        project=project,
        folder=project / _FOLDER,
        port=port,
        with_s3=with_s3,
        tell=lambda line: click.echo(f"  {line}"),
    )
