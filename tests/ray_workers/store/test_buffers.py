from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ray_workers.store.buffers import flat_view
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.memory import MemoryStore


def test_a_view_shares_the_callers_memory():
    array: Any = np.zeros((3, 4), np.float32)
    view = flat_view(array)
    assert (view.ndim, view.nbytes, view.format) == (1, 48, "B")
    view[0] = 1
    assert array.view(np.uint8).flat[0] == 1


@pytest.mark.parametrize("empty", [b"", np.empty((0, 4), np.float32), np.empty((3, 0), np.int64)])
def test_nothing_is_nothing_whatever_its_shape(empty: Any):
    assert flat_view(empty).nbytes == 0


def test_a_buffer_with_gaps_is_refused():
    gaps: Any = np.zeros((4, 4), np.float32)[:, ::2]
    with pytest.raises(InvalidInputError, match="contiguous"):
        flat_view(gaps)
    with pytest.raises(InvalidInputError, match="contiguous"):
        MemoryStore().put("a", gaps)
