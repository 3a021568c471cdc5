"""Write `docs/reference.md` from the code: every command with its help, every flow and its settings, the API of a user's loop.

python docs/make_reference.py           write it
python docs/make_reference.py --check   end with 1 if it is out of date
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from deployments.cli import EXIT_CODES, pawl
from ray_workers import config

_FILE = Path(__file__).with_name("reference.md")
_API = {
    "ray_workers.session": ("CheckpointSession",),
    "ray_workers.sampling": ("GlobalBatches",),
    "ray_workers.user_checks": ("StoredVersion",),
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
_SETTINGS = {
    "Saving": "Parameter `saving` of `flows.train.train`.",
    "Scaling": "Parameter `scaling` of `flows.train.train`.",
    "Validation": "Parameter `validation` of `flows.train.train` and `flows.drill.drill`.",
    "Retention": "Parameter `retention` of `flows.train.train`, `flows.maintain.maintain` and `flows.health.health`.",
    "Drilling": "Parameter `drilling` of `flows.drill.drill`.",
    "Objectives": "Parameter `objective` of `flows.health.health`.",
    "PromotionGate": "Parameter `gate` of `flows.promote.promote`.",
}
"""Every model of a flow's settings, and where one gives it."""
_SETTINGS_TOLD = (
    "What a run may be told, by group. In Prefect's run form each group is a section; in Python it is a parameter of the\n"
    'flow, as in `train(..., saving={"buffers": 1})`. `pawl train` has options of its own for the common fields, and\n'
    "`-o GROUP.FIELD=VALUE`, as in `-o saving.buffers=1`, for every other of scaling, saving, validation and retention."
)
_BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}


def reference() -> str:
    """The whole page."""
    parts = [
        "# Reference",
        "Made from the code by `python docs/make_reference.py`; do not edit.",
        "## Commands",
        "Exit codes:\n\n"
        + "\n".join(f"- `{code}`: {meaning}" for code, meaning in EXIT_CODES.items()),
        *_commands(pawl, "pawl"),
        "## Flows",
        *(_flow(module, name) for module, name in _FLOWS.items()),
        "## Settings",
        _SETTINGS_TOLD,
        *(_settings(name, where) for name, where in _SETTINGS.items()),
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


def _settings(name: str, where: str) -> str:
    """A group's fields as a table."""
    model = getattr(config, name)
    rows = [
        f"| `{field}` | {_default(info)} | {_allowed(info)} | {info.description} |"
        for field, info in model.model_fields.items()
    ]
    head = "| field | default | allowed | what it is |\n|---|---|---|---|"
    told = " ".join(inspect.cleandoc(model.__doc__ or "").split())
    return f"### `{name}`\n\n{told} {where}\n\n" + "\n".join([head, *rows])


def _default(info: FieldInfo) -> str:
    value = info.get_default()
    if value is None or value == ():
        return "empty"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _allowed(info: FieldInfo) -> str:
    """Words, or bounds, or the type; what may be empty is so by default."""
    union = get_origin(info.annotation) is not Literal
    kinds = (get_args(info.annotation) if union else ()) or (info.annotation,)
    for kind in kinds:
        if get_origin(kind) is Literal:
            return ", ".join(f"`{word}`" for word in get_args(kind))
    names = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    what = next((names[kind] for kind in kinds if kind in names), "")
    listed = f"{what}s" if get_origin(info.annotation) is tuple else what
    bounds = [
        text.format(getattr(limit, name))
        for limit in info.metadata
        for name, text in _BOUNDS.items()
        if getattr(limit, name, None) is not None
    ]
    return " ".join([listed, *bounds])


def _module(module: str, names: tuple[str, ...]) -> Iterator[str]:
    loaded = importlib.import_module(module)
    for name in names:
        item = getattr(loaded, name)
        yield _entry(f"{module}.{name}", item)
        if inspect.isclass(item):
            yield from _members(name, item)


def _members(name: str, item: type) -> Iterator[str]:
    """Fields, properties and methods; what has no docstring is named."""
    public = {member: value for member, value in vars(item).items() if not member.startswith("_")}
    fields = (
        [field.name for field in dataclasses.fields(item)] if dataclasses.is_dataclass(item) else []
    )
    properties = {m: v for m, v in public.items() if isinstance(v, property)}
    plain = [*fields, *(m for m, v in properties.items() if not v.__doc__)]
    if plain:
        yield f"Plain attributes of `{name}`: {', '.join(f'`{member}`' for member in plain)}."
    for member, value in public.items():
        function = getattr(value, "__func__", value)
        if member in properties and value.__doc__:
            yield f"### `{name}.{member}`\n\n```text\n{member}\n\n{inspect.cleandoc(value.__doc__)}\n```"
        elif inspect.isfunction(function) and function.__doc__:
            yield _entry(f"{name}.{member}", function)


def _entry(title: str, item: Any) -> str:
    text = inspect.cleandoc(item.__doc__ or "")
    # Of a class the docstring tells its arguments, if it is made by calling it.
    shown = not inspect.isclass(item) or "Args:" in text
    signature = str(inspect.signature(item)) if shown else ""
    signature = re.sub(r"<function (\S+) at 0x[0-9a-f]+>", r"\1", signature)
    return f"### `{title}`\n\n```text\n{title.rpartition('.')[2]}{signature}\n\n{text}\n```"


if __name__ == "__main__":
    made = reference()
    if "--check" not in sys.argv:
        _FILE.write_text(made, encoding="utf-8")
    elif _FILE.read_text(encoding="utf-8") != made:
        raise SystemExit(f"{_FILE.name} is out of date: run python docs/make_reference.py")
