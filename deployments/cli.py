"""The `pawl` command. Importing this loads no command; each is imported when it is called or described.

What each exit code means is in `EXIT_CODES`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence

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

_SECTIONS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Train and come back": {
        "train": (
            "train_command:train_command",
            "Train module:function, and resume what was there",
        ),
        "explain": (
            "explain_command:explain_command",
            "What interrupted a run, and what that cost",
        ),
        "interval": (
            "interval_command:interval_command",
            "How often a run is saved, why, and what it costs",
        ),
        "drill": (
            "drill_command:drill_command",
            "Restore a version on fresh workers, and measure it",
        ),
    },
    "Look": {
        "health": ("health_command:health_command", "Could every run come back, right now?"),
        "runs": ("read_commands:runs_command", "The runs of a store"),
        "versions": ("read_commands:versions_command", "The versions of a run"),
        "show": ("read_commands:show_command", "Everything about one version"),
        "lineage": ("lineage_command:lineage_command", "Draw a run: attempts, resumes, forks"),
        "search": (
            "registry_commands:search_command",
            "Find versions over all runs, as in 'metrics.loss < 0.2'",
        ),
        "compare": (
            "compare_command:compare_command",
            "Versions side by side: metrics, settings, weights",
        ),
    },
    "Use a version": {
        "tag": ("tag_commands:tag_command", "Name a version"),
        "untag": ("tag_commands:untag_command", "Take a name off"),
        "tags": ("tag_commands:tags_command", "The names of a run's versions, and their history"),
        "promote": ("promote_command:promote_command", "Move a tag through its gate"),
        "export": ("export_command:export_command", "Write the weights for programs without Pawl"),
    },
    "Look after the store": {
        "verify": ("read_commands:verify_command", "Read everything back and compare every digest"),
        "repair": (
            "repair_command:repair_command",
            "Say what is wrong with a run, and mend what can be",
        ),
        "gc": ("gc_command:gc_command", "Delete what nothing needs any more"),
        "delete": ("gc_command:delete_command", "Give a run up, with all its versions"),
        "registry": ("registry_commands:registry_command", "All versions as one Parquet dataset"),
        "doctor": ("doctor_command:doctor_command", "Is everything in place on this machine?"),
    },
    "Prefect and servers": {
        "setup": (
            "setup_command:setup_command",
            "Put Pawl's blocks and deployments on a Prefect server",
        ),
        "up": (
            "stack_command:up_command",
            "Start a Prefect server, an S3 server and a worker here",
        ),
        "down": ("stack_command:down_command", "End what `pawl up` started"),
    },
}
"""By section: `module:attribute` below `deployments`, and what the command is for, so that help need not load any."""
_COMMANDS = {name: row for section in _SECTIONS.values() for name, row in section.items()}

_CODES_BY_GROUP: tuple[tuple[type[PawlError], int], ...] = (
    (FenceLostError, 3),
    (RetryableError, 75),
    (RefusedError, 2),
    (MissingError, 2),
)
_FAILED = 1
_WIDEST = max(map(len, _COMMANDS))
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
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        loaded = importlib.import_module(f"deployments.{module}")
        command: click.Command = getattr(loaded, attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not (name in _COMMANDS or name.startswith("-") or ctx.resilient_parsing):
            near = difflib.get_close_matches(name, _COMMANDS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"There is no command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for title, commands in _SECTIONS.items():
            rows = [(f"{name:<{_WIDEST}}", told) for name, (_, told) in commands.items()]
            with formatter.section(title):
                formatter.write_dl(rows)

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
