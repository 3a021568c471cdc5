"""`pawl setup`: make a Prefect server ready for Pawl, as often as one likes; `--check` only looks."""

from __future__ import annotations

from typing import Any

import click

from deployments.example_command import command

__all__ = ["setup_command"]

_INCOMPLETE = 1


@command(
    "setup",
    "pawl setup",
    "pawl setup --check",
    "pawl setup --storage s3://bucket/runs --notify slack-webhook/team",
)
@click.option(
    "--check", is_flag=True, help="Change nothing; say what is missing, and why it matters."
)
@click.option(
    "--storage",
    help="Write the block pawl-storage/main with this URL. Keys are taken from the AWS variables.",
)
@click.option(
    "--cluster",
    help="Write the block pawl-cluster/main: http://host:8265 (Ray Jobs), host:6379 or auto (join), or local.",
)
@click.option(
    "--if-missing",
    is_flag=True,
    help="Write the blocks of --storage and --cluster only where there is none yet.",
)
@click.option(
    "--project",
    help="Folder that runs start in, as the workers see it. Default: where they start already, at first this one.",
)
@click.option("--max-runs", type=int, help="Tries of one flow run in all, from 1 to 9 (default 5).")
@click.option(
    "--backoff", help="Seconds to wait before each new try, as in 30,60,300 (the default)."
)
@click.option(
    "--lost-after", type=int, help="Seconds of silence after which a run is dead (default 150)."
)
@click.option(
    "--stuck-after",
    type=int,
    help="Seconds that a run may wait for its process or pod, or be cancelled, before it counts as stuck (default 900).",
)
@click.option(
    "--notify",
    help="Block that is told when a run is given up, as slack-webhook/NAME or webhook/NAME; 'none' to stop.",
)
def setup_command(*, check: bool, project: str | None, **options: Any) -> None:
    """Put Pawl's blocks, work pool, automations and deployments on the Prefect server.

    Running it again changes nothing that is right already; options given once are remembered on the server. Blocks that
    are there are yours and stay as they are, unless --storage or --cluster is given without --if-missing, and so are the parameters, schedules,
    limit, pause and work queue of a deployment. Runs that the automations missed while Prefect's server was down are brought
    back, after a watch of 90 seconds if there are any. Exit code of --check: 0 all there, 1 not.
    """
    from deployments.setting_up import (  # noqa: PLC0415 - Prefect takes seconds, and `pawl --help` must not
        BlockWishes,
        set_up,
    )

    blocks = BlockWishes(
        storage=options.pop("storage"),
        cluster=options.pop("cluster"),
        if_missing=options.pop("if_missing"),
    )
    if not set_up(check=check, blocks=blocks, project=project, options=options):
        raise SystemExit(_INCOMPLETE)
