"""Which code a version was trained with: what the user says, else the git commit of the project folder."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

__all__ = ["VARIABLE", "code_version"]

VARIABLE = "PAWL_CODE_VERSION"
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?(?:-dirty)?")
_PATIENCE_S = 10.0


def code_version(folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """PAWL_CODE_VERSION if it is set, else the commit that the folder is at, else nothing.

    `-dirty` behind the commit: files that git follows were changed since; only git itself knows that, so a machine without
    it never says so.

    Args:
        folder: the user's project, itself a git repository or in one.
        environment: variables; default: this process's.
    """
    known = os.environ if environment is None else environment
    said = known.get(VARIABLE, "").strip()
    return said or _asked(folder) or _read(folder)


def _asked(folder: Path) -> str:
    try:
        answer = subprocess.run(  # noqa: S603 - nothing of it comes from a stranger
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],  # noqa: S607 - whichever git the user has
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
            env=_calm(os.environ),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return _commit(answer.stdout) if answer.returncode == 0 else ""


def _calm(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what points git at another repository, as inside a hook; and it is to write nothing."""
    own = {name: value for name, value in environment.items() if not name.startswith("GIT_")}
    return {**own, "GIT_OPTIONAL_LOCKS": "0"}


def _read(folder: Path) -> str:
    """The commit as git keeps it in files: HEAD, and the branch that it names."""
    try:
        place = next(p / ".git" for p in (folder, *folder.parents) if (p / ".git").exists())
        if place.is_file():  # of a worktree or a submodule
            place = place.parent / place.read_text().removeprefix("gitdir:").strip()
        head = (place / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return _commit(head)
        branch = head.removeprefix("ref:").strip()
        shared = place / "commondir"
        common = place / shared.read_text().strip() if shared.exists() else place
        if (common / branch).exists():
            return _commit((common / branch).read_text())
        packed = (line.split(" ", 1) for line in (common / "packed-refs").read_text().splitlines())
        return _commit(next((line[0] for line in packed if line[1:] == [branch]), ""))
    except (OSError, StopIteration, UnicodeDecodeError):
        return ""


def _commit(text: str) -> str:
    found = text.strip()
    return found if _COMMIT.fullmatch(found) else ""
