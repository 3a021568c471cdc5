"""A line that somebody types, parsed as the command line would, without running anything."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click

from deployments.cli import pawl

__all__ = ["every_command", "parse"]


def every_command(
    group: click.Group = pawl, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Name, as in `registry path`, and command, of all that are not groups."""
    context = click.Context(group, info_name="pawl")
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from every_command(found, (*path, name))
        elif found is not None:
            yield " ".join((*path, name)), found


def parse(text: str, *, whole: bool) -> None:
    """Raises click's error, or AssertionError, if the command line does not understand it.

    Args:
        text: begins with `pawl`; what follows an ellipsis or a pipe is left aside, of `a|b` the first is taken.
        whole: False: arguments may be missing, as where a text only mentions a command.
    """
    text = text.partition("…")[0].partition(" | ")[0].partition(" && ")[0]
    words = [word.partition("|")[0].strip("[]") for word in shlex.split(text, comments=True)[1:]]
    command: click.Command = pawl
    context = click.Context(pawl, info_name="pawl")
    while words and isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"no command {name!r}"
        command, context = found, click.Context(found, info_name=name, parent=context)
    try:
        command.make_context("pawl", words)
    except click.MissingParameter:
        if whole:
            raise
    except click.exceptions.NoArgsIsHelpError:
        assert not whole
