"""Which tensors lie in the same memory, told by the addresses that they span."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import torch

from ray_workers.planners import local_part

__all__ = ["sharing_memory"]

_Spans = list[tuple[int, int, int]]
"""First address, the one behind the last, and the tensor's place in the order given."""


def sharing_memory(tensors: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Paths by the memory that they share, each group in the order given; who shares with nobody is left out.

    Tensors count as sharing when one begins within what the other spans, though their items may lie between each other.
    """
    by_device: dict[torch.device, _Spans] = defaultdict(list)
    for place, tensor in enumerate(map(local_part, tensors.values())):
        if tensor.numel():
            begin = tensor.data_ptr()
            by_device[tensor.device].append((begin, begin + _length(tensor), place))
    paths = list(tensors)
    return [
        [paths[place] for place in sorted(group)]
        for spans in by_device.values()
        for group in _groups(sorted(spans))
        if len(group) > 1
    ]


def _length(tensor: torch.Tensor) -> int:
    last = sum(
        (length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return (last + 1) * tensor.itemsize


def _groups(spans: _Spans) -> Iterator[list[int]]:
    group: list[int] = []
    reached = 0
    for begin, end, place in spans:
        if group and begin >= reached:
            yield group
            group = []
        group.append(place)
        reached = max(reached, end)
    if group:
        yield group
