"""The data of the GPT loop: the text of the Python language reference, as bytes."""

from __future__ import annotations

from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ray_workers.datasets import parquet_bytes

__all__ = ["Windows", "text_parquet", "to_text"]


class Windows(Dataset[Tensor]):
    """`count` stretches of `length` bytes, spread evenly over the text."""

    def __init__(self, text: Tensor, *, length: int, count: int) -> None:
        self.text, self.length, self.count = text, length, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        start = index * (len(self.text) - self.length) // max(1, self.count - 1)
        return self.text[start : start + self.length].long()


def text_parquet() -> bytes:
    """The topics that CPython carries for `help()`, by name: another Python has another text, and so another key."""
    text = "\n\n".join(topics[name] for name in sorted(topics)).encode()
    return parquet_bytes(pa.table({"byte": np.frombuffer(text, np.uint8)}))


def to_text(table: Any) -> Tensor:
    """The bytes, one a place."""
    return torch.tensor(table["byte"].to_numpy())
