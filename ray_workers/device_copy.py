"""Copies from a CUDA device into staging memory, on a stream of their own beside training.

Nothing here makes the processor wait for the device while training goes on, as long as the staging memory is pinned:
what may change at once is copied in the order of training's own stream; the rest on a side stream, and the optimizer's
kernels are put behind it. Into memory that is not pinned CUDA copies while the caller waits.

This path was written against torch's documentation and tested without a device; no run on one is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["DeviceCopies", "on_device", "pin", "unpin"]

_cuda: Any = torch.cuda  # its constructors have no types

Copies = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Pairs of a source on the device and a target of the same type and shape in host memory."""


_PORTABLE = 1
"""cudaHostRegisterPortable: pinned for every device that this process uses."""


def on_device(tensor: torch.Tensor) -> bool:
    return tensor.device.type != "cpu"


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
    """What one save copies from one device.

    Args:
        at_once: may change with the next kernel that training starts.
        later: stay as they are until an optimizer steps.
    """

    def __init__(self, at_once: Copies, later: Copies) -> None:
        device = (at_once or later)[0][0].device
        self._training = torch.cuda.current_stream(device)
        # Before the at-once copies are enqueued: the side stream need not wait for them.
        side = _cuda.Stream(device)
        side.wait_stream(self._training)
        with torch.cuda.stream(side):
            self._later = _enqueue(later, side)
        with torch.cuda.stream(self._training):
            self._at_once = _enqueue(at_once, None)

    def hold_back_step(self) -> None:
        """What training enqueues from now on runs after the copies. The processor goes on."""
        self._training.wait_event(self._later)

    def wait(self) -> None:
        """Return when the bytes are in host memory; for a background thread."""
        self._later.synchronize()
        self._at_once.synchronize()


def _enqueue(copies: Copies, side: Any | None) -> Any:
    for source, target in copies:
        target.copy_(source, non_blocking=True)
        if side is not None:
            # The allocator must not give the memory away before the side stream has read it.
            source.record_stream(side)
    done = _cuda.Event()
    done.record()
    return done
