"""The `pawl` command. Importing this loads no command; each is imported when it is called or described.

What each exit code means is in `EXIT_CODES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import click

from ray_workers.store.errors import (
    FenceLostError,
    InternalError,
    MissingError,
    PawlError,
    RefusedError,
    RetryableError,
)

__all__ = ["EXIT_CODES", "exit_code", "main", "pawl"]

EXIT_CODES = {
    0: "done",
    1: "failed, something is damaged, or the objective is missed",
    2: "bad input; what was named is not there, or not allowed",
    3: "cancelled: a newer attempt owns the run, or a promotion was not approved",
    75: "may succeed when tried again",
    130: "interrupted",
    143: "ended by SIGTERM",
}

_COMMANDS = {
    "train": "deployments.train_command:train_command",
    "runs": "deployments.read_commands:runs_command",
    "versions": "deployments.read_commands:versions_command",
    "show": "deployments.read_commands:show_command",
    "verify": "deployments.read_commands:verify_command",
    "setup": "deployments.setup_command:setup_command",
    "up": "deployments.stack_command:up_command",
    "down": "deployments.stack_command:down_command",
    "gc": "deployments.gc_command:gc_command",
    "repair": "deployments.repair_command:repair_command",
    "delete": "deployments.gc_command:delete_command",
    "tag": "deployments.tag_commands:tag_command",
    "untag": "deployments.tag_commands:untag_command",
    "tags": "deployments.tag_commands:tags_command",
    "registry": "deployments.registry_commands:registry_command",
    "search": "deployments.registry_commands:search_command",
    "export": "deployments.export_command:export_command",
    "compare": "deployments.compare_command:compare_command",
    "interval": "deployments.interval_command:interval_command",
    "explain": "deployments.explain_command:explain_command",
    "lineage": "deployments.lineage_command:lineage_command",
    "promote": "deployments.promote_command:promote_command",
    "drill": "deployments.drill_command:drill_command",
    "doctor": "deployments.doctor_command:doctor_command",
    "health": "deployments.health_command:health_command",
}

_CODES_BY_GROUP: tuple[tuple[type[PawlError], int], ...] = (
    (FenceLostError, 3),
    (RetryableError, 75),
    (RefusedError, 2),
    (MissingError, 2),
)
_FAILED = 1
_INTERRUPTED = 130

_EPILOG = f"Exit codes: {'; '.join(f'{code} {meaning}' for code, meaning in EXIT_CODES.items())}."


def exit_code(error: PawlError) -> int:
    """What the process ends with, by the error's group: what the caller can do about it."""
    return next((code for group, code in _CODES_BY_GROUP if isinstance(error, group)), _FAILED)


class _Failure(click.ClickException):
    """A `PawlError` as click shows it: its message on stderr, its exit code, no traceback."""

    def __init__(self, error: PawlError) -> None:
        bug = (
            " This is a bug in Pawl; please report it." if isinstance(error, InternalError) else ""
        )
        super().__init__(error.message + bug)
        self._error = error

    @property
    def exit_code(self) -> int:  # type: ignore[override] # a class variable to click, which only reads it
        return exit_code(self._error)


class _LazyGroup(click.Group):
    """Commands by `module:attribute`; an error of the tree becomes one message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        target = _COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except PawlError as error:
            raise _Failure(error) from None
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(_INTERRUPTED)


@click.command(
    cls=_LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="pawl")
def pawl() -> None:
    """Train with checkpoints that cannot be lost, and look at what is stored."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and end the process."""
    pawl.main(args=args, prog_name="pawl")
