"""The comparison flow: versions of any runs side by side, as an artifact with pictures."""

from __future__ import annotations

from typing import Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.comparison import compare_versions, publish_comparison

__all__ = ["compare"]


@flow(name="pawl-compare", validate_parameters=True)
def compare(
    versions: list[str],
    storage: str | None = None,
    weights: bool = True,
    html_file: str | None = None,
    metric: str = "loss",
    mode: Literal["min", "max"] = "min",
) -> State[None]:
    """Compare versions; the first one is what the others are measured against.

    Args:
        versions: Two or more of RUN@N, RUN@TAG, RUN@latest, RUN@sound, RUN@best.
        storage: Folder, s3://bucket/prefix, or a storage block as pawl-storage/NAME. Empty: PAWL_STORAGE, else ./pawl-store.
        weights: Also measure the distance of every layer; reads all weights.
        html_file: Also write the page as one HTML file here.
        metric: What RUN@best goes by.
        mode: Whether a smaller or a larger metric is better.
    """
    comparison = compare_versions(versions, storage, weights=weights, metric=metric, mode=mode)
    publish_comparison(comparison, html_file)
    return Completed(message=f"{len(versions)} versions compared")
