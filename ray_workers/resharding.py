"""What each rank alone had, for another number of ranks: the rule, by default a refusal (`Scaling.on_changed_workers`).

Parameters and optimizer state are laid out anew by `shard_reading` and need no rule. What belongs to one rank each is

    data position   one number of samples over all ranks, if the sampler knows it (`sampling.GlobalBatches`); at the end
                    of an epoch any loader will do; otherwise an error
    random state    new streams, derived from rank 0's stored state, the number of workers and the rank: another number
                    of workers cannot draw the same numbers, but the same change draws the same ones every time
    metric series   those of the old rank of the same number, or of rank 0; so are objects handed over as `own`
    buffers         rank 0's, on all ranks
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_workers import rng
from ray_workers.store.errors import StateMismatchError

__all__ = ["check_worker_count", "reshard", "sources"]


def check_worker_count(saved: int, now: int, rule: str) -> None:
    """Return if a version saved by `saved` workers may be resumed by `now`.

    Raises:
        StateMismatchError: their numbers differ and `rule` is not `reshard`.
    """
    if saved == now or rule == "reshard":
        return
    raise StateMismatchError(
        f"The version was saved by {saved} workers and is to be restored by {now}: random streams and data positions "
        f"belong to a rank each. Train with {saved} workers, or allow other random streams and the same order of samples "
        "with scaling.on_changed_workers = 'reshard' (--on-changed-workers reshard)."
    )


def sources(rank: int, saved: int) -> tuple[int, int]:
    """Of which old ranks `reshard` needs the state: the one that leads, and the one whose series `rank` continues."""
    return 0, rank if rank < saved else 0


def reshard(
    lead: Mapping[str, Any], own: Mapping[str, Any], *, rank: int, world_size: int
) -> dict[str, Any]:
    """The state of `rank` in a world of another size, from the old ranks that `sources` named.

    Raises:
        StateMismatchError: the old ranks did not stand at the same place of their data.
    """
    places = [{name: s["data"].get(name) for name in _PLACE} for s in (lead, own)]
    if places[0] != places[1]:
        raise StateMismatchError(
            f"The version's ranks stood at different places of their data ({places[0]} and {places[1]}): such a version "
            "can only be resumed by as many workers as saved it."
        )
    return {
        "rng": rng.derive(lead["rng"], world_size=world_size, rank=rank),
        "data": {
            **places[0],
            "shape": lead["data"].get("shape", {}),
            "loader": None,
            "resharded": True,
        },
        "series": own["series"],
        **({"own": own["own"]} if "own" in own else {}),
    }


_PLACE = ("epoch", "batches", "samples")
