"""Where a run stands, in one sentence for a flow run's state."""

from __future__ import annotations

from ray_workers.store.attempts import read_run
from ray_workers.store.errors import PawlError
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_state import RunState
from ray_workers.store.versions import load_manifest

__all__ = ["newest_sound", "standing"]

_TRUSTED = ("sound", "restorable")


def newest_sound(state: RunState) -> str:
    """Names the version that a resume would take by default."""
    found = next((v for v in state.newest_first() if v.candidate and v.rung in _TRUSTED), None)
    return (
        f"newest sound version {found.number} (step {found.step})" if found else "no sound version"
    )


def standing(store: ObjectStore, run: str) -> str:
    """Step, epoch, loss, and the newest version that can be trusted. Raises `PawlError` if the log cannot be read."""
    state = read_run(store, run)
    newest = next((v for v in state.newest_first() if v.candidate), None)
    if newest is None:
        return f"Run {run!r}: no version yet"
    parts = [f"Run {run!r}: step {newest.step}"]
    try:
        manifest = load_manifest(store, run, newest)
    except PawlError:
        return f"{parts[0]}, {newest_sound(state)}"
    wanted = manifest.progress.epochs_wanted
    parts.append(f"epoch {manifest.progress.epoch}" + (f" of {wanted}" if wanted else ""))
    if "loss" in manifest.metrics:
        parts.append(f"loss {manifest.metrics['loss']:.4g}")
    return ", ".join([*parts, newest_sound(state)])
