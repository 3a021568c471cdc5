"""Libraries under which Prefect's server, of the version that Pawl asks for, does not work: pip alone would let them in."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from ray_workers.store.errors import InvalidInputError

__all__ = ["SERVER_LIBRARIES", "ServerLibrary", "refuse_unfit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLibrary:
    """One library, the first version that breaks the server, and how."""

    name: str
    breaks_at: tuple[int, int]
    told: str
    """What it does to the server; `{found}` is the installed version."""

    @property
    def remedy(self) -> str:
        major, minor = self.breaks_at
        return f"install '{self.name}<{major}.{minor}'"

    def unfit(self) -> str | None:
        """A sentence, if the installed version is one that breaks the server."""
        found = version(self.name)
        if tuple(int(part) for part in found.split(".")[:2]) < self.breaks_at:
            return None
        return f"{self.told.format(found=found)}: {self.remedy}."


SERVER_LIBRARIES = (
    ServerLibrary(
        name="fastapi",
        breaks_at=(0, 151),
        told="fastapi {found} is installed, and Prefect's server does not work with it",
    ),
    # 2.1 refuses the bulk insert of runs with a hybrid property, with which Prefect 3.8.8 plans them; all else goes well
    ServerLibrary(
        name="sqlalchemy",
        breaks_at=(2, 1),
        told="sqlalchemy {found} is installed, and Prefect's server starts no scheduled run with it",
    ),
)


def refuse_unfit(*names: str) -> None:
    """Raises `InvalidInputError` for the first of the libraries, of all or of `names`, that breaks the server."""
    for library in SERVER_LIBRARIES:
        if (not names or library.name in names) and (told := library.unfit()):
            raise InvalidInputError(told)
