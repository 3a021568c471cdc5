"""Reading JSON that somebody else may have written: bounded, and every surprise is an error.

`parse_json` refuses what Python's reader lets pass: duplicate keys, NaN, infinity (also `1e999`), bytes beyond a limit,
nesting beyond a limit. `Fields` then takes an object apart by name and type, and refuses what is left over. All raise
plain `ValueError`; the caller knows the key and makes a `MalformedObjectError` of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, Self, TypeVar

from typing_extensions import Buffer

__all__ = ["MAX_COUNT", "Fields", "decode_float", "encode_float", "parse_json"]

_T = TypeVar("_T")

MAX_COUNT = 2**63 - 1
"""What every language and table has room for; a number beyond it is damage or malice."""

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def parse_json(data: Buffer, *, limit: int) -> Any:
    """The value that `data` (at most `limit` bytes of UTF-8) spells. Raises `ValueError`."""
    raw = memoryview(data)
    if raw.nbytes > limit:
        raise ValueError(f"{raw.nbytes} bytes of JSON, more than the limit of {limit}")
    try:
        return json.loads(
            str(raw, "utf-8"),
            object_pairs_hook=_object_without_duplicates,
            parse_float=_finite_float,
            parse_constant=_no_constant,
        )
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice")
    return value


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def encode_float(value: float) -> float | dict[str, str]:
    """JSON has no NaN or infinity: they become `{"$float": "nan" | "inf" | "-inf"}`."""
    value = float(value)
    if math.isfinite(value):
        return value
    return {"$float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}


def decode_float(value: Any) -> float:
    """Inverse of `encode_float`; raises `ValueError`."""
    if isinstance(value, float) or type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"the number {str(value)[:40]} is too large") from None
    if isinstance(value, dict) and list(value) == ["$float"] and value["$float"] in _NON_FINITE:
        return _NON_FINITE[value["$float"]]
    raise ValueError(f"expected a number, found {value!r:.60}")


class Fields:
    """One JSON object, taken apart field by field; use as a context manager, so that leftovers are refused."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected an object, found {value!r:.60}")  # noqa: TRY004 - one error type here
        self._rest = dict(value)
        self._where = where

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and self._rest:
            raise ValueError(f"{self._where}: unknown field {next(iter(self._rest))[:80]!r}")

    def take(self, name: str) -> Any:
        if name not in self._rest:
            raise ValueError(f"{self._where}: the field {name!r} is missing")
        return self._rest.pop(name)

    def text(self, name: str) -> str:
        return self._typed(name, self.take(name), str)

    def boolean(self, name: str) -> bool:
        return self._typed(name, self.take(name), bool)

    def integer(self, name: str) -> int:
        """Not negative, nothing in the format is; and at most `MAX_COUNT`."""
        return self._integer(name, self.take(name))

    def integers(self, name: str) -> tuple[int, ...]:
        return tuple(self._integer(name, item) for item in self.items(name))

    def items(self, name: str) -> list[Any]:
        return self._typed(name, self.take(name), list)

    def mapping(self, name: str) -> dict[str, Any]:
        return self._typed(name, self.take(name), dict)

    def floats(self, name: str) -> dict[str, float]:
        return {key: decode_float(item) for key, item in self.mapping(name).items()}

    def texts(self, name: str) -> dict[str, str]:
        return {key: self._typed(name, item, str) for key, item in self.mapping(name).items()}

    def objects(self, name: str) -> Iterator[Fields]:
        """The items of a list of objects."""
        for index, item in enumerate(self.items(name)):
            yield Fields(item, f"{self._where}.{name}[{index}]")

    def named_objects(self, name: str) -> Iterator[tuple[str, Fields]]:
        """The items of an object of objects."""
        for key, item in self.mapping(name).items():
            yield key, Fields(item, f"{self._where}.{name}[{key[:80]!r}]")

    def _integer(self, name: str, value: Any) -> int:
        if type(value) is not int or not 0 <= value <= MAX_COUNT:
            raise ValueError(
                f"{self._where}.{name}: expected an integer from 0 to 2^63-1, found {value!r:.60}"
            )
        return value

    def _typed(self, name: str, value: Any, kind: type[_T]) -> _T:
        if type(value) is not kind:
            raise ValueError(f"{self._where}.{name}: expected {kind.__name__}, found {value!r:.60}")
        return value
