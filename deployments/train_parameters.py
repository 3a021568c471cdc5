"""From what was typed behind `pawl train` to the parameters of the flow, each checked before anything starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_workers.store.errors import InvalidInputError

__all__ = ["train_parameters"]

_FIELDS: Mapping[str, Mapping[str, str]] = {
    "scaling": {
        "workers": "workers",
        "max_workers": "max_workers",
        "cpus_per_worker": "cpus_per_worker",
        "gpus_per_worker": "gpus_per_worker",
        "ray_address": "ray_address",
        "on_changed_workers": "on_changed_workers",
        "hung_after": "hung_after_seconds",
    },
    "saving": {
        "every_steps": "every_steps",
        "every_epochs": "every_epochs",
        "every_seconds": "every_seconds",
        "interval": "interval",
        "grace": "grace_seconds",
        "time_limit": "time_limit_seconds",
    },
    "validation": {"required": "required", "probe": "probe", "checks": "checks"},
    "retention": {
        name: name
        for name in (
            "keep_last",
            "keep_every_steps",
            "keep_every_epochs",
            "keep_best",
            "metric",
            "mode",
            "thin",
        )
    },
}
"""Group of settings to the options of the command line that set its fields."""


def train_parameters(entrypoint: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `flows.train.train`.

    Args:
        entrypoint: `module:function`.
        options: as click read them; among them `config_file`, `settings` (KEY=VALUE) and `fields` (GROUP.FIELD=VALUE).

    Raises:
        InvalidInputError: one sentence on the first value that is wrong.
    """
    config = {**_read_config(options["config_file"]), **dict(map(_setting, options["settings"]))}
    try:
        return {
            "entrypoint": entrypoint,
            # Checked here too: Prefect keeps and shows the parameters of a flow run, even of one that is refused.
            "config": _checked_config(config),
            "run": options["run"],
            "storage": _checked_storage(options["storage"]),
            **_groups(options),
            "resume": options["resume"],
            "takeover": options["takeover"],
            "code_dir": options["code_dir"],
        }
    except ValueError as error:
        raise InvalidInputError(_first_problem(error)) from None


def _groups(options: Mapping[str, Any]) -> dict[str, Any]:
    from ray_workers.config import (  # noqa: PLC0415 - pydantic, for train alone
        Retention,
        Saving,
        Scaling,
        Validation,
    )

    values = {
        group: {field: options[name] for name, field in fields.items() if options[name] is not None}
        for group, fields in _FIELDS.items()
    }
    for group, field, value in map(_field, options["fields"]):
        values[group][field] = value
    return {
        "scaling": Scaling(**values["scaling"]),
        "saving": Saving(**values["saving"]),
        "validation": Validation(**values["validation"]),
        "retention": Retention(**values["retention"]),
    }


def _field(text: str) -> tuple[str, str, Any]:
    name, value = _pair(
        text, "An --option is not of the form GROUP.FIELD=VALUE, as in saving.buffers=1."
    )
    group, _, field = name.partition(".")
    if group not in _FIELDS or not field:
        raise InvalidInputError(
            f"There are no settings {group[:60]!r}: an --option begins with {', '.join(f'{known}.' for known in _FIELDS)} "
            "as in saving.buffers=1."
        )
    return group, field, value


def _setting(text: str) -> tuple[str, Any]:
    return _pair(text, "A --set is not of the form KEY=VALUE: it lacks the '=' or the key.")


def _pair(text: str, problem: str) -> tuple[str, Any]:
    """The key, and the value as JSON if it is any."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InvalidInputError(problem)
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"The configuration file {path} cannot be read: {error}.") from None
    if not isinstance(config, dict):
        raise InvalidInputError(f"The configuration file {path} must hold a JSON object.")
    return config


def _checked_config(config: dict[str, Any]) -> dict[str, Any]:
    from ray_workers.config import check_training_config  # noqa: PLC0415 - pydantic, as above

    return check_training_config(config)


def _checked_storage(storage: str | None) -> str | None:
    """As given. Raises `InvalidInputError` for a URL with keys in it, which would be shown as a parameter."""
    from ray_workers.store.opening import normalise_url  # noqa: PLC0415 - for train alone

    if storage is not None:
        normalise_url(storage)
    return storage


def _first_problem(error: ValueError) -> str:
    """One sentence of what pydantic found."""
    problems: Sequence[dict[str, Any]] = getattr(error, "errors", list)()
    if not problems:
        return str(error)
    first = problems[0]
    name = ".".join(str(part) for part in first["loc"])
    if not name:  # a rule between several values
        return f"{first['msg'].removeprefix('Value error, ').removesuffix('.')}."
    if first["type"] == "extra_forbidden":
        return f"There is no field {name!r} of {getattr(error, 'title', 'the settings').lower()}: `docs/reference.md` lists them."
    return f"The value {first.get('input')!r} for {name} cannot be used: {first['msg']}."
