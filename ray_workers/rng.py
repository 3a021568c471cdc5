"""The random number generators of one rank: torch on the CPU and on every CUDA device, numpy's global one, Python's.

All are rank-local state: after a resume each rank goes on with its own numbers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ray_workers.store.errors import StateMismatchError

__all__ = ["capture", "derive", "restore"]


def capture() -> dict[str, Any]:
    """The states as a tree for `state_tree.split`. Draws nothing, and starts no CUDA context."""
    version, words, gauss = random.getstate()
    devices, current = _cuda_devices()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device) for device in range(devices)],
        # Again: the same rank may find its device under another number next time.
        "cuda_current": None if current is None else torch.cuda.get_rng_state(current),
        "numpy": np.random.get_state(legacy=False),
        # 625 words: an array goes to the shard, a tuple would go to the manifest.
        "python": {"version": version, "words": np.array(words, dtype=np.uint32), "gauss": gauss},
    }


def _cuda_devices() -> tuple[int, int | None]:
    """How many this process sees and which one it uses; none while CUDA is not started."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return 0, None
    return torch.cuda.device_count(), torch.cuda.current_device()


def derive(state: Mapping[str, Any], *, world_size: int, rank: int) -> dict[str, Any]:
    """A state of its own for `rank` of `world_size` ranks, from one that `capture` made; the same one every time.

    For a number of ranks other than the one that was saved: their streams cannot be divided or made up.
    """
    digest = hashlib.sha256(f"pawl ranks {world_size} {rank}".encode())
    digest.update(np.asarray(state["torch"]).tobytes())
    digest.update(np.asarray(state["python"]["words"]).tobytes())
    seed = int.from_bytes(digest.digest()[:8], "big") >> 1  # torch takes 64 bits with a sign
    version, words, gauss = random.Random(seed).getstate()  # noqa: S311 - training, not secrets
    devices, current = _cuda_devices()
    return {
        "torch": torch.Generator().manual_seed(seed).get_state(),
        "cuda": [_cuda_state(device, seed + 1 + device) for device in range(devices)],
        # Not by the device's number: the same rank draws the same numbers on any of them.
        "cuda_current": None if current is None else _cuda_state(current, seed),
        "numpy": np.random.RandomState(np.random.MT19937(seed)).get_state(legacy=False),
        "python": {"version": version, "words": np.array(words, dtype=np.uint32), "gauss": gauss},
    }


def _cuda_state(device: int, seed: int) -> torch.Tensor:
    return torch.Generator(f"cuda:{device}").manual_seed(seed).get_state()


def restore(state: Mapping[str, Any]) -> None:
    """Put every generator back to where `capture` found it; the one of the device in use, whatever its number is now.

    Of other devices, which are other ranks' as a rule, those come back that are here.

    Raises:
        StateMismatchError: the state is not one of this module, or needs a CUDA device and there is none; or it was made
            before the device in use was told apart, and there are fewer devices than then. Nothing was changed.
    """
    cuda = state.get("cuda", ())
    current = state.get("cuda_current")
    _check_devices(len(cuda), needed=len(cuda) if current is None else 1)
    try:
        python, numpy_state, torch_state = state["python"], state["numpy"], state["torch"]
        words = tuple(int(word) for word in python["words"])
        _restore_all((python["version"], words, python["gauss"]), numpy_state, torch_state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StateMismatchError(
            f"The stored random state does not fit this Python, numpy or torch: {error}."
        ) from None
    for device, device_state in enumerate(cuda[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(device_state, device)
    if current is not None:
        torch.cuda.set_rng_state(current, torch.cuda.current_device())


def _check_devices(stored: int, *, needed: int) -> None:
    devices = torch.cuda.device_count()
    if devices < needed:
        raise StateMismatchError(
            f"The random state was taken with {stored} CUDA devices, but this process sees {devices}: resume on as "
            "many devices, or start the generators afresh."
        )


def _restore_all(
    python_state: tuple[Any, ...], numpy_state: Any, torch_state: torch.Tensor
) -> None:
    before = random.getstate(), np.random.get_state(legacy=False)
    try:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
    except (KeyError, TypeError, ValueError, RuntimeError):
        random.setstate(before[0])
        np.random.set_state(before[1])
        raise
