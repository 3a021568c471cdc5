"""Which code a campaign or a matrix was played on."""

from __future__ import annotations

import subprocess

__all__ = ["played_commit"]


def played_commit() -> str:
    """Which code is played: the commit, with `+` behind it if files differ from it; empty outside a clone."""
    try:
        commit = _git("rev-parse", "--short=10", "HEAD").strip()
        changed = _git(
            "status", "--porcelain", "--untracked-files=no", "--", "ray_workers", "tests"
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{commit}+" if changed.strip() else commit


def _git(*arguments: str) -> str:
    return subprocess.run(("git", *arguments), capture_output=True, text=True, check=True).stdout
