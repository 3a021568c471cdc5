"""The network of the GPT loop: bytes in, loss out."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

__all__ = ["GPT", "Block"]

_BYTES = 256


class Block(nn.Module):
    """Causal self-attention, then a small network at each place; both added to what came in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm_1 = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.think = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.attend(self.norm_1(x)).split(width, dim=2)
        )
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        x = x + self.mix(seen.transpose(1, 2).reshape(batch, length, width))
        out: Tensor = x + self.think(self.norm_2(x))
        return out


class GPT(nn.Module):
    """Predicts every next byte of a window of at most `block` bytes."""

    def __init__(self, *, block: int, layers: int, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.bytes = nn.Embedding(_BYTES, width)
        self.places = nn.Embedding(block, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, _BYTES, bias=False)
        for table in (self.bytes, self.places, self.head):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, window: Tensor) -> Tensor:
        """Mean loss over `window[:, :-1]` predicting `window[:, 1:]`.

        The loss is made in here, because FSDP2 does not like a model that returns a view of something.
        """
        given, wanted = window[:, :-1], window[:, 1:]
        x = self.drop(self.bytes(given) + self.places(torch.arange(given.shape[1])))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), wanted.flatten())
