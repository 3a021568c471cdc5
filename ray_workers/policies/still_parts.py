"""Which tensors of a rank lie in a shard of their own because they do not change. Pure.

A shard is stored again when a byte of it changed. So what stands still must not lie beside what moves, and the division
must stay as it is, or it is stored again for that alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

__all__ = ["StillParts"]

_LEAST_BYTES = 1 << 20
_MOST_GROUPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StillParts:
    """The groups so far; each is one shard. Whatever is in none of them lies in the shard of all that changes."""

    groups: tuple[frozenset[str], ...] = ()
    restless: frozenset[str] = frozenset()
    """Tensors that stood still and then changed: they are in no group ever again."""
    least_bytes: int = _LEAST_BYTES
    """Below this a shard of its own costs more requests than it saves bytes."""

    def after(
        self,
        sizes: Mapping[str, int],
        unchanged: AbstractSet[str],
        moved: AbstractSet[str] = frozenset(),
    ) -> StillParts:
        """The groups for the next save.

        Args:
            sizes: bytes of every tensor that may be in a group.
            unchanged: those of them that seem not to have changed since the last save.
            moved: those that are known to have changed, however still they seem.
        """
        grouped = frozenset[str]().union(*self.groups)
        restless = self.restless | moved | (grouped - unchanged)
        groups = [group - restless for group in self.groups]
        kept = [group for group in groups if self._is_worth_it(group, sizes)]
        fresh = frozenset(unchanged & sizes.keys()) - restless - frozenset[str]().union(*kept)
        if len(kept) < _MOST_GROUPS and self._is_worth_it(fresh, sizes):
            kept.append(fresh)
        return StillParts(groups=tuple(kept), restless=restless, least_bytes=self.least_bytes)

    def _is_worth_it(self, group: frozenset[str], sizes: Mapping[str, int]) -> bool:
        return sum(sizes.get(path, 0) for path in group) >= self.least_bytes
