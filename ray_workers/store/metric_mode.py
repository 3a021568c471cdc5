"""Which way a metric gets better, told by its name or by the user; never guessed, since the wrong way keeps the worst."""

from __future__ import annotations

from ray_workers.store.errors import InvalidInputError

__all__ = ["mode_of"]

_SMALLER = ("loss", "error", "perplexity", "nll", "mse", "rmse", "mae")


def mode_of(metric: str, given: str | None) -> str:
    """`min` or `max`: what was given, else `min` for a metric whose name ends as a loss or an error does.

    Raises:
        InvalidInputError: nothing was given, and the name does not tell.
    """
    if given is not None:
        return given
    if metric.lower().endswith(_SMALLER):
        return "min"
    raise InvalidInputError(
        f"Whether a smaller or a larger {metric[:100]!r} is better is not known: say mode min or mode max "
        "(on the command line --mode)."
    )
