"""A compose file as an engine reads it: variables put in, anchors merged. As much of the rules as our file uses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["COMPOSE", "MissingVariableError", "read_compose"]

COMPOSE = Path(__file__).parents[2] / "deployments" / "compose.yaml"
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")


class MissingVariableError(ValueError):
    """A variable that the file requires is not set; its text is what the file tells the user."""


def read_compose(environment: Mapping[str, str], path: Path = COMPOSE) -> dict[str, Any]:
    """The file with `${NAME}`, `${NAME:-default}` and `${NAME:?error}` put in, in values alone.

    Raises:
        MissingVariableError: as said there.
    """

    def value(match: re.Match[str]) -> str:
        found = environment.get(match["name"])
        if found:
            return found
        if match["kind"] == "?":
            raise MissingVariableError(f"{match['name']}: {match['text']}")
        return match["text"] or ""

    def put_in(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: put_in(item) for key, item in node.items()}
        if isinstance(node, list):
            return [put_in(item) for item in node]
        return _VARIABLE.sub(value, node) if isinstance(node, str) else node

    read: dict[str, Any] = put_in(yaml.safe_load(path.read_text()))
    return read
