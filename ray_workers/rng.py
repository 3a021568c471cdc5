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
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = torch.cuda.device_count() if started else 0
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device) for device in range(devices)],
        "numpy": np.random.get_state(legacy=False),
        # 625 words: an array goes to the shard, a tuple would go to the manifest.
        "python": {"version": version, "words": np.array(words, dtype=np.uint32), "gauss": gauss},
    }


def derive(state: Mapping[str, Any], *, world_size: int, rank: int) -> dict[str, Any]:
    """A state of its own for `rank` of `world_size` ranks, from one that `capture` made; the same one every time.

    For a number of ranks other than the one that was saved: their streams cannot be divided or made up.
    """
    digest = hashlib.sha256(f"pawl ranks {world_size} {rank}".encode())
    digest.update(np.asarray(state["torch"]).tobytes())
    digest.update(np.asarray(state["python"]["words"]).tobytes())
    seed = int.from_bytes(digest.digest()[:8], "big") >> 1  # torch takes 64 bits with a sign
    version, words, gauss = random.Random(seed).getstate()  # noqa: S311 - training, not secrets
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = torch.cuda.device_count() if started else 0
    return {
        "torch": torch.Generator().manual_seed(seed).get_state(),
        "cuda": [
            torch.Generator(f"cuda:{d}").manual_seed(seed + d).get_state() for d in range(devices)
        ],
        "numpy": np.random.RandomState(np.random.MT19937(seed)).get_state(legacy=False),
        "python": {"version": version, "words": np.array(words, dtype=np.uint32), "gauss": gauss},
    }


def restore(state: Mapping[str, Any]) -> None:
    """Put every generator back to where `capture` found it.

    Raises:
        StateMismatchError: the state is not one of this module, or needs more CUDA devices than there are here.
            Nothing was changed.
    """
    cuda = state.get("cuda", ())
    devices = torch.cuda.device_count()
    if len(cuda) > devices:
        raise StateMismatchError(
            f"The random state was taken with {len(cuda)} CUDA devices, but this process sees {devices}: resume on as "
            "many devices, or start the generators afresh."
        )
    try:
        python, numpy_state, torch_state = state["python"], state["numpy"], state["torch"]
        words = tuple(int(word) for word in python["words"])
        _restore_all((python["version"], words, python["gauss"]), numpy_state, torch_state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StateMismatchError(
            f"The stored random state does not fit this Python, numpy or torch: {error}."
        ) from None
    for device, device_state in enumerate(cuda):
        torch.cuda.set_rng_state(device_state, device)


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
