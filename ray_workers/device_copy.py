"""Copies from CUDA devices into staging memory, on streams of their own beside training.

Nothing here makes the processor wait for the device while training goes on, as long as the staging memory is pinned:
what may change at once is copied in the order of training's own stream; the rest on a side stream, and the optimizer's
kernels are put behind it. Into memory that is not pinned CUDA copies while the caller waits.

This path was written against torch's documentation and tested without a device; no run on one is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ray_workers.store.errors import InvalidInputError

__all__ = ["DeviceCopies", "check_device", "on_device", "pin", "unpin"]

_cuda: Any = torch.cuda  # its constructors have no types

Copies = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Pairs of a source on the device and a target of the same type and shape in host memory."""


_PORTABLE = 1
"""cudaHostRegisterPortable: pinned for every device that this process uses."""


def on_device(tensor: torch.Tensor) -> bool:
    return tensor.device.type != "cpu"


def check_device(what: str, tensor: torch.Tensor) -> None:
    """Raise `InvalidInputError` when it lies on a device that no copy is made from."""
    device = tensor.device
    # What has no data yet is refused where its values are asked for.
    if device.type not in ("cpu", "cuda", "meta"):
        raise InvalidInputError(
            f"{what} lies on {device}, and state is saved from the CPU and from CUDA devices alone: train on one of those."
        )


def pin(address: int, length: int) -> bool:
    """Lock mapped pages, so that the device copies into them by itself; whether that was possible."""
    try:
        if int(_cuda.cudart().cudaHostRegister(address, length, _PORTABLE)) == 0:
            return True
        # CUDA keeps its last error until somebody asks: a kernel of training's would be blamed for it.
        torch.ones(1, device="cuda")
    except (RuntimeError, AssertionError):  # the latter: a torch without CUDA
        pass
    return False


def unpin(address: int) -> None:
    """Of pinned memory, before it is unmapped."""
    _cuda.cudart().cudaHostUnregister(address)


class DeviceCopies:
    """What one save copies from the devices of this process.

    Args:
        at_once: may change with the next kernel that training starts.
        later: stay as they are until an optimizer steps.
    """

    def __init__(self, at_once: Copies, later: Copies) -> None:
        # A stream and its events order the work of their own device, and say nothing of another one's.
        devices = dict.fromkeys(source.device for source, _ in (*at_once, *later))
        self._each = [
            _OneDevice(device, _from(device, at_once), _from(device, later)) for device in devices
        ]

    def hold_back_step(self) -> None:
        """What training enqueues from now on runs after the copies. The processor goes on."""
        for one in self._each:
            one.hold_back_step()

    def wait(self) -> None:
        """Return when the bytes are in host memory; for a background thread."""
        for one in self._each:
            one.wait()


class _OneDevice:
    def __init__(self, device: torch.device, at_once: Copies, later: Copies) -> None:
        self._training = torch.cuda.current_stream(device)
        # Before the at-once copies are enqueued: the side stream need not wait for them.
        side = _cuda.Stream(device)
        side.wait_stream(self._training)
        with torch.cuda.stream(side):
            self._later = _enqueue(later, side)
        with torch.cuda.stream(self._training):
            self._at_once = _enqueue(at_once, None)

    def hold_back_step(self) -> None:
        self._training.wait_event(self._later)

    def wait(self) -> None:
        self._later.synchronize()
        self._at_once.synchronize()


def _from(device: torch.device, copies: Copies) -> Copies:
    return [pair for pair in copies if pair[0].device == device]


def _enqueue(copies: Copies, side: Any | None) -> Any:
    for source, target in copies:
        target.copy_(source, non_blocking=True)
        if side is not None:
            # The allocator must not give the memory away before the side stream has read it.
            source.record_stream(side)
    done = _cuda.Event()
    done.record()
    return done
