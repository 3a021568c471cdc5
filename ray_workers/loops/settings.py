"""A loop's settings: every key of the config known, every value of its type and in its range, or one clear sentence."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from ray_workers.store.errors import InvalidInputError

__all__ = ["number", "read_settings"]

_Settings = TypeVar("_Settings")


def number(default: float, *, low: float, below: float = math.inf) -> Any:
    """A field of a settings class: an int if `default` is one, else a float; `low` allowed, `below` not."""
    return dataclasses.field(default=default, metadata={"low": low, "below": below})


def read_settings(cls: type[_Settings], config: Mapping[str, Any]) -> _Settings:
    """An instance of `cls`, a dataclass whose fields were all made by `number`; what `config` lacks has its default.

    Raises:
        InvalidInputError: a key that `cls` does not have (a slip of the pen must not train with the default instead),
            or a value of the wrong type or out of range.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in config:
        if key not in fields:
            raise InvalidInputError(_unknown(str(key), list(fields)))
    return cls(**{key: _checked(fields[key], value) for key, value in config.items()})


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"This training loop has no setting {key[:100]!r}. {hint}It takes {', '.join(known)}."


def _checked(field: dataclasses.Field[Any], value: Any) -> Any:
    whole = isinstance(field.default, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        wanted = "a whole number" if whole else "a number"
        raise InvalidInputError(
            f"The setting {field.name!r} must be {wanted}, found {value!r:.100}."
        )
    low, below = field.metadata["low"], field.metadata["below"]
    if not (low <= value < below):  # false for NaN too
        limit = "" if below == math.inf else f" and below {below}"
        raise InvalidInputError(
            f"The setting {field.name!r} must be at least {low}{limit}, found {value}."
        )
    return value if whole else float(value)
