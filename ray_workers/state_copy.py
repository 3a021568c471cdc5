"""One save's copy of the state, overlapped with the training that follows.

Parameters and optimizer state do not change between two optimizer steps, so their copy runs beside the next forward
and backward pass and is joined before an optimizer may write. Everything else is copied before training goes on.

That the steady part was steady is not taken on trust: torch counts in-place changes of a tensor, and a count that moved
while the copy ran voids the copy. Of a DTensor both are watched, itself and its local part: what is done to the one is
not counted by the other. Between `advance` and the next optimizer step three kinds of change are not allowed, because
torch counts none of them: through `.data`; on a DTensor through a `torch._foreach_` function, or through a local part
that was taken from it; and a step that is replayed from a CUDA graph.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.distributed.tensor import DTensor

from ray_workers.device_copy import DeviceCopies, check_device, on_device
from ray_workers.host_copy import CopySegment, HostCopy, address_of, copy_now
from ray_workers.planners import local_part
from ray_workers.shard_io import PlannedChunk, ShardPlan, write_headers
from ray_workers.store.errors import InternalError

__all__ = ["StateCopy"]

_SMALL_BYTES = 32 * 1024
"""Up to here, copying at once costs less than handing the work over."""

Settled = Callable[[tuple[str, ...]], None]
"""Called on a background thread when the copy is whole, with the paths that changed meanwhile; none: it is sound."""


class StateCopy:
    """A copy under way.

    Args:
        plan: one that fits `tensors`.
        tensors: the live state.
        memory: writable; nobody else touches it until `settled` was called.
        steady: paths of what only an optimizer's step changes.
        pool: threads of `host_copy.copy_pool`.
        settled: see `Settled`.
    """

    def __init__(
        self,
        plan: ShardPlan,
        tensors: Mapping[str, torch.Tensor],
        memory: memoryview,
        *,
        steady: AbstractSet[str],
        pool: ThreadPoolExecutor,
        settled: Settled,
    ) -> None:
        if memory.readonly or memory.nbytes < plan.total:
            raise InternalError(
                f"A shard of {plan.total} bytes needs a writable buffer of that size"
            )
        self._pool = pool
        self._settled = settled
        self._lock = threading.Lock()
        self._watched: list[tuple[str, torch.Tensor, int]] = []
        self._changed: tuple[str, ...] | None = None
        write_headers(plan, memory)
        sorter = _Sorter(memory, steady)
        for chunk in plan.chunks:
            sorter.place(chunk, tensors[chunk.path])
        self._watched = sorter.watched
        self._device = (
            DeviceCopies(sorter.device_at_once, sorter.device_later)
            if sorter.device_at_once or sorter.device_later
            else None
        )
        HostCopy(sorter.at_once, pool).join()
        keep = (memory, [tensor for _, tensor, _ in self._watched])
        self._host = HostCopy(sorter.later, pool, on_copied=self._copied, keep=keep)

    def before_step(self) -> None:
        """Return when an optimizer may write to what is being copied."""
        self._host.join()
        self._judge()
        if self._device is not None:
            self._device.hold_back_step()

    def _copied(self) -> None:
        if self._device is None:
            self._judge()  # here, and not a thread later: the step may begin when this returns
        self._pool.submit(self._hand_over)

    def _hand_over(self) -> None:
        if self._device is not None:
            self._device.wait()
        self._settled(self._judge())

    def _judge(self) -> tuple[str, ...]:
        """What changed during the copy; looked at once, at the last moment when nothing may have."""
        with self._lock:
            if self._changed is None:
                self._changed = tuple(
                    dict.fromkeys(
                        path
                        for path, tensor, count in self._watched
                        if _changes_of(tensor) != count
                    )
                )
                self._watched = []
            return self._changed


class _Sorter:
    """Puts each tensor where its copy belongs; small and odd ones are copied right here."""

    def __init__(self, memory: memoryview, steady: AbstractSet[str]) -> None:
        self._memory = memory
        self._address = address_of(memory)
        self._steady = steady
        self.at_once: list[CopySegment] = []
        self.later: list[CopySegment] = []
        self.device_at_once: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.device_later: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.watched: list[tuple[str, torch.Tensor, int]] = []

    def place(self, chunk: PlannedChunk, tensor: torch.Tensor) -> None:
        source = local_part(tensor).detach()
        if source.dtype != chunk.dtype or source.shape != chunk.shape:
            # `copy_` would convert or broadcast without a word.
            raise InternalError(f"{chunk.path} changed since the shard was planned")
        length = source.nbytes
        if length == 0:
            return
        steady = chunk.path in self._steady and not source.is_inference()
        away = on_device(source)
        if not away and not _is_plain(source):
            self._target(chunk).copy_(source)
            return
        if not away and length <= _SMALL_BYTES:
            copy_now(self._segment(chunk, source, length))
            return
        if steady:
            self._watch(chunk.path, source)
            if isinstance(tensor, DTensor):
                self._watch(chunk.path, tensor.detach())
        if away:
            check_device(f"The tensor {chunk.path}", source)  # of other parts than the model
            pair = (source, self._target(chunk))
            (self.device_later if steady else self.device_at_once).append(pair)
        else:
            segment = self._segment(chunk, source, length)
            (self.later if steady else self.at_once).append(segment)

    def _watch(self, path: str, tensor: torch.Tensor) -> None:
        self.watched.append((path, tensor, _changes_of(tensor)))

    def _segment(self, chunk: PlannedChunk, source: torch.Tensor, length: int) -> CopySegment:
        return CopySegment(self._address + chunk.position, source.data_ptr(), length)

    def _target(self, chunk: PlannedChunk) -> torch.Tensor:
        flat = torch.frombuffer(
            self._memory, dtype=chunk.dtype, count=math.prod(chunk.shape), offset=chunk.position
        )
        return flat.view(chunk.shape)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether its bytes in memory are its values in order."""
    return tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()


def _changes_of(tensor: torch.Tensor) -> int:
    """How often the tensor, or any other view of its memory, was changed in place so far."""
    return tensor._version  # noqa: SLF001 - torch documents it, and has no other name for it
