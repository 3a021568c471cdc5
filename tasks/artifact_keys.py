"""Artifact keys are made here and nowhere else: Prefect allows lower-case letters, digits and dashes."""

from __future__ import annotations

import hashlib
import re

__all__ = ["artifact_key"]


def artifact_key(what: str, run: str) -> str:
    """`lineage-<run>`; a run name with other characters gets a short digest, so that two names never share a key."""
    plain = re.sub(r"[^a-z0-9-]+", "-", run)
    if plain == run:
        return f"{what}-{run}"
    return f"{what}-{plain}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"
