"""The run as one of Prefect's assets: each flow run that trains it to the end materializes it anew."""

from __future__ import annotations

import logging
import re

from prefect.assets import Asset, AssetProperties, materialize
from prefect.cache_policies import NO_CACHE

from ray_workers.store.attempts import read_run
from ray_workers.store.versions import load_manifest
from tasks.attempt import Attempt

__all__ = ["asset_key", "record_asset"]

_log = logging.getLogger(__name__)


def asset_key(url: str, run: str) -> str:
    """The run's place in the store, as a URI: `s3://bucket/prefix/runs/<run>` or `file:///folder/runs/<run>`."""
    root = url if "://" in url else f"file://{url}"
    # Prefect refuses some characters; two folders that differ in these alone share an asset, and nothing else.
    return re.sub(r"[^A-Za-z0-9/._:@+=-]", "-", f"{root}/runs/{run}")


def record_asset(attempt: Attempt) -> None:
    """Tell Prefect that the run's newest version is its asset's state. A view: if it fails, nothing else does."""
    request = attempt.request
    try:
        asset = Asset(
            key=asset_key(request.target.url, request.run),
            properties=AssetProperties(
                name=request.run, description=f"Versions of the run {request.run}, kept by Pawl."
            ),
        )

        @materialize(asset, by="ray", cache_policy=NO_CACHE, task_run_name="record-asset")
        def publish() -> None:
            asset.add_metadata(_facts(attempt))

        publish()
    except Exception as error:  # noqa: BLE001 - as said above
        _log.warning("The asset of run %s could not be recorded: %s", request.run, error)


def _facts(attempt: Attempt) -> dict[str, object]:
    store = attempt.request.target.open().store
    version = next(
        (v for v in read_run(store, attempt.request.run).newest_first() if v.candidate), None
    )
    if version is None:
        return {}
    manifest = load_manifest(store, attempt.request.run, version)
    return {
        "version": version.number,
        "step": version.step,
        "rung": version.rung,
        "metrics": dict(manifest.metrics),
    }
