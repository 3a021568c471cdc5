"""Bytes and JSON as damage and malice leave them: small changes of what is valid, so that deep code is reached."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

__all__ = ["altered_json", "damaged_bytes", "hostile_values"]

_TRAVERSALS = (
    "..", "../../etc/passwd", "/etc/passwd", "a/../../b", "runs/../../x", "..\\x", ".pawl-tmp-x",
    "C:\\x", "a\0b", "\ud800", "~root", "%2e%2e%2f", "", "x" * 2000, "damaged:1", "$tensor",
)  # fmt: skip
_NUMBERS = (
    -1, 0, 1, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, 10**400, -(10**400), 0.5, -0.0, 1e308,
)  # fmt: skip


def _nested(depth: int, kind: str) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


def hostile_values() -> st.SearchStrategy[Any]:
    """What a field does not expect: other types, huge numbers, paths out of the root, deep nesting, markers."""
    return st.one_of(
        st.none(),
        st.booleans(),
        st.sampled_from(_NUMBERS),
        st.sampled_from(_TRAVERSALS),
        st.text(max_size=20),
        st.builds(_nested, st.sampled_from([3, 90, 150, 600]), st.sampled_from(["list", "dict"])),
        st.sampled_from(
            [[], {}, [1, [2]], {"$float": "nan"}, {"$tensor": "x"}, {"$map": [[[], 1]]},
             {"$scalar": ["<M8[s]", "00"]}, {"$dtype": "object"}, {"$size": [-1]}, {"$set": [[]]},
             {"$bytes": "!"}, {"$complex": [1]}, {"__metadata__": {"a": 1}}]
        ),
    )  # fmt: skip


@st.composite
def altered_json(draw: st.DrawFn, value: Any, *, changes: int = 3) -> Any:
    """`value` with one to `changes` places replaced, removed, doubled, or added to."""
    box = {"value": copy.deepcopy(value)}
    for _ in range(draw(st.integers(1, changes))):
        holder, place = _somewhere(draw, box)
        draw(st.sampled_from(_CHANGES))(draw, holder, place)
    return box.get("value")


def _somewhere(draw: st.DrawFn, box: dict[str, Any]) -> tuple[Any, Any]:
    """A container and a key or index in it, at any depth."""
    holder: Any = box
    while True:
        places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        place = draw(st.sampled_from(places)) if places else None
        inner = None if place is None else holder[place]
        if not isinstance(inner, dict | list) or not inner or draw(st.integers(0, 4)) == 0:
            return holder, place
        holder = inner


def _replace(draw: st.DrawFn, holder: Any, place: Any) -> None:
    if place is not None:
        holder[place] = draw(hostile_values())


def _remove(draw: st.DrawFn, holder: Any, place: Any) -> None:
    if place is not None and len(holder) > 1:
        del holder[place]


def _double(draw: st.DrawFn, holder: Any, place: Any) -> None:
    if place is None:
        return
    if isinstance(holder, list):
        holder.append(copy.deepcopy(holder[place]))
    else:
        holder[f"{place}x"] = copy.deepcopy(holder[place])


def _add(draw: st.DrawFn, holder: Any, place: Any) -> None:
    value = draw(hostile_values())
    if isinstance(holder, list):
        holder.append(value)
    else:
        holder[draw(st.sampled_from(_TRAVERSALS))] = value


_CHANGES: tuple[Callable[[st.DrawFn, Any, Any], None], ...] = (
    _replace, _replace, _replace, _remove, _double, _add,
)  # fmt: skip


@st.composite
def damaged_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with bits turned, and pieces cut out, doubled, overwritten or put in."""
    raw = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(raw)))
        end = min(len(raw), begin + draw(st.integers(0, 40)))
        what = draw(st.sampled_from(["turn", "cut", "double", "put", "end"]))
        if what == "turn" and begin < len(raw):
            raw[begin] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del raw[begin:end]
        elif what == "double":
            raw[begin:begin] = raw[begin:end]
        elif what == "put":
            raw[begin:end] = draw(st.binary(max_size=12))
        elif what == "end":
            del raw[begin:]
    return bytes(raw)
