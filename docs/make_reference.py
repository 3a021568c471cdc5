"""Write `docs/reference.md` from the docstrings: every command with its help, every flow, the API of a user's loop.

python docs/make_reference.py           write it
python docs/make_reference.py --check   end with 1 if it is out of date
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from deployments.cli import EXIT_CODES, pawl

_FILE = Path(__file__).with_name("reference.md")
_API = {
    "ray_workers.session": ("CheckpointSession",),
    "ray_workers.loading": ("load", "load_into", "open_version", "model_state"),
    "ray_workers.exporting": ("export_version",),
    "ray_workers.opening_checkpoint": ("open_checkpoint",),
    "ray_workers.comparison": ("compare", "layer_distances"),
    "ray_workers.health_facts": ("look_at_root",),
    "ray_workers.store.registry": ("refresh_run", "refresh_all", "read_registry"),
    "ray_workers.store.registry_search": ("search",),
    "ray_workers.store.tags": ("move_tag", "tag_history", "protected_tags"),
}
_FLOWS = {
    "flows.train": "train",
    "flows.drill": "drill",
    "flows.health": "health",
    "flows.compare": "compare",
    "flows.promote": "promote",
    "flows.maintain": "maintain",
    "flows.scrub": "scrub",
}


def reference() -> str:
    """The whole page."""
    parts = [
        "# Reference",
        "Made from the docstrings by `python docs/make_reference.py`; do not edit.",
        "## Commands",
        "Exit codes:\n\n"
        + "\n".join(f"- `{code}`: {meaning}" for code, meaning in EXIT_CODES.items()),
        *_commands(pawl, "pawl"),
        "## Flows",
        *(_flow(module, name) for module, name in _FLOWS.items()),
        "## Python",
        *(part for module, names in _API.items() for part in _module(module, names)),
    ]
    return "\n\n".join(parts) + "\n"


def _commands(group: click.Group, path: str) -> Iterator[str]:
    context = click.Context(group, info_name=path, terminal_width=100, max_content_width=100)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        below = click.Context(
            command, info_name=f"{path} {name}", terminal_width=100, max_content_width=100
        )
        yield f"### `{path} {name}`\n\n```text\n{command.get_help(below).strip()}\n```"
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")


def _flow(module: str, name: str) -> str:
    flow: Any = getattr(importlib.import_module(module), name)
    return f"### `{module}.{name}`\n\n```text\n{inspect.cleandoc(flow.fn.__doc__ or '')}\n```"


def _module(module: str, names: tuple[str, ...]) -> Iterator[str]:
    loaded = importlib.import_module(module)
    for name in names:
        item = getattr(loaded, name)
        yield _entry(f"{module}.{name}", item)
        if inspect.isclass(item):
            for method, value in vars(item).items():
                function = getattr(value, "__func__", value)
                if not method.startswith("_") and inspect.isfunction(function) and function.__doc__:
                    yield _entry(f"{name}.{method}", function)


def _entry(title: str, item: Any) -> str:
    text = inspect.cleandoc(item.__doc__ or "")
    signature = "" if inspect.isclass(item) else str(inspect.signature(item))
    signature = re.sub(r"<function (\S+) at 0x[0-9a-f]+>", r"\1", signature)
    return f"### `{title}`\n\n```text\n{title.rpartition('.')[2]}{signature}\n\n{text}\n```"


if __name__ == "__main__":
    made = reference()
    if "--check" not in sys.argv:
        _FILE.write_text(made, encoding="utf-8")
    elif _FILE.read_text(encoding="utf-8") != made:
        raise SystemExit(f"{_FILE.name} is out of date: run python docs/make_reference.py")
