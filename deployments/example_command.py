"""A command whose help ends with examples, each on a line of its own, as they are typed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

__all__ = ["ExampleCommand", "command"]


class ExampleCommand(click.Command):
    """click folds the lines of a docstring into a paragraph; these are kept as they are."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def command(
    name: str, *examples: str, group: click.Group | None = None
) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command of a function.

    Args:
        name: as it is typed.
        examples: whole lines, as in `pawl runs --json`.
        group: the command that it belongs to; None: `pawl` itself, which finds it by `module:attribute`.
    """
    if group is not None:
        return group.command(name, cls=ExampleCommand, examples=examples)
    return click.command(name, cls=ExampleCommand, examples=examples)
