"""What a rank need not send again: which tensors stand still, and which stored shards hold them already.

A guess says what to put apart: torch counts in-place changes of a tensor, and a count that did not move is a hint. That
nothing changed is never taken on trust: the node agent compares the digest of every byte with what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch

from ray_workers.messages import VersionOutcome
from ray_workers.planners import SHARED_PREFIX, is_owner, local_part
from ray_workers.policies.still_parts import StillParts
from ray_workers.store.shards import ShardEntry

__all__ = ["Offer", "Reuse"]

_MODEL = f"{SHARED_PREFIX}/model/"
"""Only what a model holds is watched: it lives on, so that an address and a count mean the same tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """How one save is divided, and what it need not send."""

    groups: tuple[frozenset[str], ...] = ()
    """Paths of the tensors of each shard that stands still."""
    known: tuple[ShardEntry, ...] = ()
    """Shards of the newest version of this attempt, or of the version resumed from."""
    steady: frozenset[str] = frozenset()
    """Paths that were found unchanged byte by byte the last time."""


class Reuse:
    """One rank's memory.

    Args:
        rank: this rank.
        stored: this rank's shards of the version resumed from.
        full_every: versions that may name one shard; the next stores it again, since they share its fate.
        parts: the division to begin with.
    """

    def __init__(
        self,
        *,
        rank: int,
        stored: Iterable[ShardEntry] = (),
        full_every: int,
        parts: StillParts | None = None,
    ) -> None:
        self._rank = rank
        self._full_every = full_every
        self._parts = parts or StillParts()
        self._stored: tuple[ShardEntry, ...] = tuple(stored)
        self._uses: dict[str, int] = {}
        self._by_group: dict[frozenset[str], ShardEntry] = {}
        self._seen: dict[str, tuple[int, int]] | None = None
        self._confirmed = frozenset[str]()
        self._moved = frozenset[str]()
        self._digests: dict[str, str] | None = None
        self.in_doubt = False
        """A shard that seemed to stand still was stored again: `compare` is to find out which tensor changed."""

    def offer(self, tensors: Mapping[str, torch.Tensor], frozen: AbstractSet[str]) -> Offer:
        """What the next save is to be; `frozen` are the paths of parameters that are not trained."""
        unchanged = self._unchanged(tensors, frozen)
        sizes = {
            path: local_part(tensors[path]).nbytes
            for path in unchanged
            if is_owner(path, tensors[path], self._rank)
        }
        self._parts = self._parts.after(sizes, unchanged, self._moved)
        groups = self._parts.groups if self._full_every > 1 else ()
        known = [e for e in self._stored if self._uses.get(e.key, 1) < self._full_every]
        return Offer(
            groups=groups,
            known=tuple(known) if groups else (),
            steady=self._confirmed & frozen,
        )

    def compare(self, groups: Sequence[frozenset[str]], digest: Callable[[str], str]) -> None:
        """While in doubt: note the digest of every tensor that seems to stand still; `digest` gives it by path."""
        digests = {path: digest(path) for group in groups for path in group}
        if self._digests is not None:
            known = self._digests
            self._moved |= {path for path, d in digests.items() if known.get(path, d) != d}
            self._digests, self.in_doubt = None, False
        else:
            self._digests = digests

    def heard(self, offer: Offer, outcome: VersionOutcome) -> None:
        """What became of the save that was made as `offer` says."""
        if outcome.resend:
            self._stored, self._by_group = (), {}
        if outcome.number is None or not outcome.shards:
            return
        offered = {entry.key for entry in offer.known}
        self._uses = {entry.key: self._uses.get(entry.key, 0) + 1 for entry in outcome.shards}
        self._stored = outcome.shards
        still = dict(zip(offer.groups, outcome.shards[-len(offer.groups) :], strict=False))
        self._confirmed = frozenset[str]().union(
            *(group for group, entry in still.items() if entry.key in offered)
        )
        self.in_doubt |= any(
            self._by_group[group].key in offered and entry.key not in offered
            for group, entry in still.items()
            if group in self._by_group
        )
        self._by_group = still

    def _unchanged(
        self, tensors: Mapping[str, torch.Tensor], frozen: AbstractSet[str]
    ) -> frozenset[str]:
        """Before anything was seen, what is not trained counts as unchanged."""
        now = {
            path: (part.data_ptr(), part._version)  # noqa: SLF001 - torch documents it under this name
            for path, tensor in tensors.items()
            if path.startswith(_MODEL)
            and not (part := local_part(tensor)).is_inference()
            and part.numel()
        }
        seen, self._seen = self._seen, now
        if seen is None:
            return frozenset(now.keys() & frozen)
        return frozenset(path for path, at in now.items() if seen.get(path) == at)
