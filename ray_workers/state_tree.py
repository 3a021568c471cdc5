"""A tree of state, split into tensors by path and typed JSON, and joined again, without pickle (FORMAT.md §12).

Plain values keep their exact Python type. JSON has fewer types than Python, so what it lacks becomes an object with one
key that begins with `$`:

    {"$tensor": path}            a tensor                     {"$map": [[k, v], …]}       a dict JSON cannot spell
    {"$ndarray": path}           a numpy array                {"$ordered": [[k, v], …]}   an OrderedDict
    {"$bytes_tensor": path}      long bytes                   {"$counter": [[k, v], …]}   a Counter
    {"$complex_tensor": path}    complex128, as pairs of       {"$tuple": […]}
    {"$complex_ndarray": path}   real numbers                 {"$set": […]}, {"$frozenset": […]}
    {"$bytes": base64}           short bytes
    {"$scalar": [dtype, hex]}    a numpy scalar               {"$size": […]}              a torch.Size
    {"$float": "nan"}            also "inf", "-inf"           {"$complex": [re, im]}
    {"$dtype": "float32"}                                     {"$device": "cuda:0"}

A dict keeps its order: it is a JSON object only if its keys are strings in sorted order, for canonical JSON sorts them.
Whatever else stands in the tree is refused with its place and what to do; nothing is guessed and no code is stored.
"""

from __future__ import annotations

import base64
import json
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from ray_workers.state_join import MAX_DEPTH, join
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.strict_json import encode_float
from ray_workers.tensor_types import dtype_name

__all__ = ["MAX_DEPTH", "SplitState", "escape", "join", "split"]

_LONG_BYTES = 1024
_LONG_INT_BITS = 8192
_NUMPY_KINDS = "biufc"
_TENSOR_TYPES = (torch.Tensor, torch.nn.Parameter, DTensor)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitState:
    plain: Any
    """Typed JSON."""
    tensors: dict[str, torch.Tensor]
    """Path -> the live tensor, not a copy, without its autograd history."""


def split(tree: Any, *, prefix: str) -> SplitState:
    """Take a tree apart. Tensors are not copied; arrays neither, unless they are read-only or not contiguous.

    Args:
        tree: nested dicts, lists and tuples of tensors, arrays and plain values.
        prefix: beginning of every path, such as `shared` or `rank/3`.

    Raises:
        InvalidInputError: something in the tree cannot be stored; the message names its place.
    """
    splitter = _Splitter()
    plain = splitter.encode(tree, prefix, 0)
    return SplitState(plain=plain, tensors=splitter.tensors)


def escape(key: str) -> str:
    """One path segment, as JSON Pointer spells it."""
    return key.replace("~", "~0").replace("/", "~1")


class _Splitter:
    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._encoders: dict[type, Callable[[Any, str, int], Any]] = {
            type(None): self._as_it_is,
            bool: self._as_it_is,
            int: self._int,
            float: self._float,
            str: self._str,
            bytes: self._bytes,
            complex: self._complex,
            dict: self._dict,
            OrderedDict: self._ordered,
            Counter: self._counter,
            list: self._list,
            tuple: self._tuple,
            torch.Size: self._size,
            set: self._set,
            frozenset: self._frozenset,
            np.ndarray: self._ndarray,
            torch.dtype: self._dtype,
            torch.device: self._device,
        }

    def encode(self, value: Any, path: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise InvalidInputError(
                f"State at {path[:200]} is nested more than {MAX_DEPTH} deep, or contains itself."
            )
        kind = type(value)
        if kind in _TENSOR_TYPES:
            return self._tensor(value, path)
        encode = self._encoders.get(kind)
        if encode is None:
            encode = self._numpy_scalar if isinstance(value, np.generic) else self._refuse
        return encode(value, path, depth)

    # --- containers ---------------------------------------------------------------------------

    def _dict(self, value: dict[Any, Any], path: str, depth: int) -> Any:
        keys = list(value)
        if not all(type(key) is str and not key.startswith("$") for key in keys) or keys != sorted(
            keys
        ):
            return {"$map": self._pairs(value, path, depth)}
        return {
            self._str(key, path, depth): self.encode(item, f"{path}/{escape(key)}", depth + 1)
            for key, item in value.items()
        }

    def _ordered(self, value: OrderedDict[Any, Any], path: str, depth: int) -> Any:
        return {"$ordered": self._pairs(value, path, depth)}

    def _counter(self, value: Counter[Any], path: str, depth: int) -> Any:
        return {"$counter": self._pairs(value, path, depth)}

    def _pairs(self, value: dict[Any, Any], path: str, depth: int) -> list[list[Any]]:
        pairs = []
        for key, item in value.items():
            below = f"{path}/{escape(str(key))}"
            pairs.append([self.encode(key, below, depth + 1), self.encode(item, below, depth + 1)])
        return pairs

    def _list(self, value: Iterable[Any], path: str, depth: int) -> list[Any]:
        return [self.encode(item, f"{path}/{i}", depth + 1) for i, item in enumerate(value)]

    def _tuple(self, value: tuple[Any, ...], path: str, depth: int) -> Any:
        return {"$tuple": self._list(value, path, depth)}

    def _size(self, value: torch.Size, _path: str, _depth: int) -> Any:
        return {"$size": list(value)}

    def _set(self, value: set[Any], path: str, depth: int) -> Any:
        return {"$set": self._members(value, path, depth)}

    def _frozenset(self, value: frozenset[Any], path: str, depth: int) -> Any:
        return {"$frozenset": self._members(value, path, depth)}

    def _members(self, value: Iterable[Any], path: str, depth: int) -> list[Any]:
        # A set has no order of its own, and equal state must give equal bytes.
        return sorted(
            self._list(value, path, depth), key=lambda item: json.dumps(item, sort_keys=True)
        )

    # --- plain values -------------------------------------------------------------------------

    def _as_it_is(self, value: Any, _path: str, _depth: int) -> Any:
        return value

    def _int(self, value: int, path: str, depth: int) -> Any:
        # Python itself refuses to read numbers of more than 4300 digits.
        return value if value.bit_length() <= _LONG_INT_BITS else self._refuse(value, path, depth)

    def _str(self, value: str, path: str, _depth: int) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidInputError(
                f"The text at {path} is no valid Unicode and cannot be stored."
            ) from None
        return value

    def _float(self, value: float, _path: str, _depth: int) -> Any:
        return value if math.isfinite(value) else encode_float(value)

    def _complex(self, value: complex, _path: str, _depth: int) -> Any:
        return {"$complex": [encode_float(value.real), encode_float(value.imag)]}

    def _numpy_scalar(self, value: np.generic, path: str, depth: int) -> Any:
        if value.dtype.kind not in _NUMPY_KINDS:
            return self._refuse(value, path, depth)
        return {"$scalar": [value.dtype.str, value.tobytes().hex()]}

    def _dtype(self, value: torch.dtype, _path: str, _depth: int) -> Any:
        return {"$dtype": str(value).removeprefix("torch.")}

    def _device(self, value: torch.device, _path: str, _depth: int) -> Any:
        return {"$device": str(value)}

    def _bytes(self, value: bytes, path: str, _depth: int) -> Any:
        if len(value) <= _LONG_BYTES:
            return {"$bytes": base64.b64encode(value).decode()}
        # `bytearray`, because torch wants memory it could write to.
        return {
            "$bytes_tensor": self._keep(torch.frombuffer(bytearray(value), dtype=torch.uint8), path)
        }

    # --- tensors ------------------------------------------------------------------------------

    def _tensor(self, value: torch.Tensor, path: str) -> Any:
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            kind = (
                "meta"
                if value.is_meta
                else "quantized"
                if value.is_quantized
                else str(value.layout)
            )
            raise InvalidInputError(
                f"The {kind} tensor at {path} cannot be stored: keep a dense tensor with data there instead."
            )
        value = value.detach()
        if value.dtype is torch.complex128 and not isinstance(value, DTensor):
            return {"$complex_tensor": self._keep(torch.view_as_real(value.resolve_conj()), path)}
        return {"$tensor": self._keep(value, path)}

    def _ndarray(self, value: np.ndarray[Any, Any], path: str, depth: int) -> Any:
        if value.dtype.kind not in _NUMPY_KINDS or not value.dtype.isnative:
            return self._refuse(value, path, depth)
        # torch takes neither read-only memory nor negative strides.
        array = value if value.flags.writeable and value.flags.c_contiguous else value.copy()
        try:
            tensor = torch.from_numpy(array)
        except TypeError:
            return self._refuse(value, path, depth)
        if tensor.dtype is torch.complex128:
            return {"$complex_ndarray": self._keep(torch.view_as_real(tensor), path)}
        return {"$ndarray": self._keep(tensor, path)}

    def _keep(self, tensor: torch.Tensor, path: str) -> str:
        if dtype_name(tensor.dtype) is None:
            raise InvalidInputError(
                f"The tensor at {path} has the type {tensor.dtype}, which safetensors cannot hold: convert it first."
            )
        # 1 and "1" are two keys of a dict, but one segment.
        while path in self.tensors:
            path += "~2"
        self.tensors[self._str(path, path, 0)] = tensor
        return path

    def _refuse(self, value: Any, path: str, _depth: int) -> Any:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if isinstance(value, np.ndarray):
            kind += f" of {value.dtype}"
        raise InvalidInputError(
            f"State at {path} is of type {kind}, which cannot be stored without running code on load. Return tensors, "
            "numpy arrays, numbers, strings, bytes, lists, tuples, sets or dicts from state_dict() instead."
        )
