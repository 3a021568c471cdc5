"""The inverse of `state_tree.split`: typed JSON and tensors become a tree again. Strict, and no code is run."""

from __future__ import annotations

import base64
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from ray_workers.store.errors import MalformedObjectError
from ray_workers.store.strict_json import decode_float

__all__ = ["MAX_DEPTH", "join"]

MAX_DEPTH = 100
"""Nesting that `split` writes and `join` accepts."""

_NUMPY_KINDS = "biufc"


def join(plain: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Build the tree that was split. Tensors and arrays share memory with `tensors`; long bytes are copied out.

    Raises:
        MalformedObjectError: `plain` is no typed JSON, is nested too deeply, or names a tensor that is not there.
    """
    try:
        return _Joiner(tensors).decode(plain, 0)
    except (ValueError, TypeError, RuntimeError, RecursionError) as error:
        # All that a hostile value can make the constructors below raise.
        raise MalformedObjectError(f"The stored plain state is damaged: {error}.") from None


class _Joiner:
    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors
        self._decoders: dict[str, Callable[[Any, int], Any]] = {
            "$map": self._map,
            "$ordered": self._ordered,
            "$counter": self._counter,
            "$tuple": self._tuple,
            "$set": self._set,
            "$frozenset": self._frozenset,
            "$size": self._size,
            "$float": self._float,
            "$complex": self._complex,
            "$scalar": self._scalar,
            "$dtype": self._dtype,
            "$device": self._device,
            "$bytes": self._bytes,
            "$bytes_tensor": self._bytes_tensor,
            "$ndarray": self._ndarray,
            "$tensor": self._tensor,
            "$complex_tensor": self._complex_tensor,
            "$complex_ndarray": self._complex_ndarray,
        }

    def decode(self, value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        if isinstance(value, list):
            return self._list(value, depth)
        if not isinstance(value, dict):
            return value
        marker = next((key for key in value if key.startswith("$")), None)
        if marker is None:
            return {key: self.decode(item, depth + 1) for key, item in value.items()}
        decode = self._decoders.get(marker)
        if decode is None or len(value) != 1:
            raise ValueError(f"unknown marker {marker[:40]!r}")
        return decode(value[marker], depth)

    def _list(self, value: Any, depth: int) -> list[Any]:
        if not isinstance(value, list):
            raise TypeError(f"expected a list, found {value!r:.60}")
        return [self.decode(item, depth + 1) for item in value]

    def _pairs(self, value: Any, depth: int) -> list[tuple[Any, Any]]:
        if not isinstance(value, list):
            raise TypeError(f"expected pairs, found {value!r:.60}")
        pairs = [(self.decode(key, depth + 1), self.decode(item, depth + 1)) for key, item in value]
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key stands twice")
        return pairs

    def _map(self, value: Any, depth: int) -> Any:
        return dict(self._pairs(value, depth))

    def _ordered(self, value: Any, depth: int) -> Any:
        return OrderedDict(self._pairs(value, depth))

    def _counter(self, value: Any, depth: int) -> Any:
        return Counter(dict(self._pairs(value, depth)))

    def _tuple(self, value: Any, depth: int) -> Any:
        return tuple(self._list(value, depth))

    def _set(self, value: Any, depth: int) -> Any:
        return set(self._list(value, depth))

    def _frozenset(self, value: Any, depth: int) -> Any:
        return frozenset(self._list(value, depth))

    def _size(self, value: Any, depth: int) -> Any:
        return torch.Size(self._list(value, depth))

    def _float(self, value: Any, _depth: int) -> Any:
        return decode_float({"$float": value})

    def _complex(self, value: Any, _depth: int) -> Any:
        real, imag = value
        return complex(decode_float(real), decode_float(imag))

    def _scalar(self, value: Any, _depth: int) -> Any:
        name, digits = value
        dtype = np.dtype(name) if isinstance(name, str) else None
        if dtype is None or dtype.kind not in _NUMPY_KINDS or dtype.subdtype is not None:
            raise ValueError(f"{name!r:.40} is no type of a numpy scalar")
        (scalar,) = np.frombuffer(bytes.fromhex(digits), dtype=dtype)
        return scalar

    def _dtype(self, value: Any, _depth: int) -> Any:
        dtype = vars(torch).get(value) if isinstance(value, str) else None
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{value!r:.40} is no torch type")  # noqa: TRY004 - the stored value is at fault
        return dtype

    def _device(self, value: Any, _depth: int) -> Any:
        if not isinstance(value, str):
            raise TypeError(f"{value!r:.40} is no device")
        return torch.device(value)

    def _bytes(self, value: Any, _depth: int) -> Any:
        return base64.b64decode(value, validate=True)

    def _bytes_tensor(self, value: Any, depth: int) -> Any:
        return self._tensor(value, depth).numpy().tobytes()

    def _ndarray(self, value: Any, depth: int) -> Any:
        return self._tensor(value, depth).numpy()

    def _complex_tensor(self, value: Any, depth: int) -> Any:
        return torch.view_as_complex(self._tensor(value, depth))

    def _complex_ndarray(self, value: Any, depth: int) -> Any:
        return self._complex_tensor(value, depth).numpy()

    def _tensor(self, value: Any, _depth: int) -> torch.Tensor:
        tensor = self._tensors.get(value) if isinstance(value, str) else None
        if tensor is None:
            raise ValueError(f"the tensor {value!r:.200} is not there")
        return tensor
