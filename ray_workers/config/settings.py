"""What all settings share: frozen, no unknown names; and the rungs of trust as a user names them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["Rung", "Settings"]

Rung = Literal["committed", "verified", "sound", "restorable"]


class Settings(BaseModel):
    """A group of settings: Prefect's run form shows one as a section."""

    model_config = ConfigDict(frozen=True, extra="forbid")
