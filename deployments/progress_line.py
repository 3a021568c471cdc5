"""How far a command has come, on stderr."""

from __future__ import annotations

import sys

import click

__all__ = ["end_progress", "tell_progress"]


def tell_progress(text: str) -> None:
    """On a terminal one line that is written over; elsewhere a line each."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", err=True, nl=False)
    else:
        click.echo(text, err=True)


def end_progress() -> None:
    """Take the line away again."""
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)
