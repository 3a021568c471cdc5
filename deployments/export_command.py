"""`pawl export`: a version's weights as files that need no Pawl."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Self

import click

from deployments.cli_options import (
    json_option,
    metric_option,
    mode_option,
    print_json,
    storage_option,
)
from deployments.example_command import command
from deployments.named_storage import storage_at
from deployments.text_tables import bytes_text, printable

__all__ = ["export_command"]


@command(
    "export",
    "pawl export digits@production --to weights",
    "pawl export digits@best --to encoder --names 'encoder.*' --format hf",
    "pawl export digits@3 --to for-torch --format torch",
)
@click.argument("reference", metavar="RUN@V")
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="New folder.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["safetensors", "torch", "hf", "dcp", "files"]),
    default="safetensors",
    show_default=True,
    help="files: what was handed over as a directory.",
)
@click.option("--names", default="*", show_default=True, help="Only weights named like this.")
@storage_option
@json_option
@metric_option
@mode_option
def export_command(
    reference: str, *, folder: Path, kind: str, storage: str, as_json: bool, **options: Any
) -> None:
    """Write the weights of RUN@V, unsharded, into a new folder."""
    from ray_workers.exporting import export_version  # noqa: PLC0415 - loads torch
    from ray_workers.loading import open_version  # noqa: PLC0415

    stored = open_version(
        reference, storage_at(storage), metric=options["metric"], mode=options["mode"]
    )
    with _Bar(f"Reading {printable(stored.reference)}") as bar:
        done = export_version(stored, folder, kind, names=options["names"], tell=bar.tell)
    if done.left_out:
        click.echo(
            f"Left out, because it is no tensor: {printable(', '.join(done.left_out))}.", err=True
        )
    if as_json:
        facts = {"files": list(done.files), "bytes": done.bytes, "left_out": list(done.left_out)}
        print_json({"reference": stored.reference, "folder": str(folder), **facts})
    else:
        click.echo(
            f"{stored.reference} ({stored.version.rung}): {len(done.files)} files, {bytes_text(done.bytes)}, in {folder}"
        )


class _Bar:
    """A progress bar of bytes on stderr; nothing when that is no terminal."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Any = None
        self._shown = 0

    def __enter__(self) -> Self:
        return self

    def tell(self, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            self._bar = click.progressbar(length=total, label=self._label, file=sys.stderr)
        self._bar.update(done - self._shown)
        self._shown = done

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()
