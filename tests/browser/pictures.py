"""Pictures of Prefect's pages, as high as the whole page; `PAWL_SCREENSHOTS` names a folder that keeps them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PATIENCE_MS", "PICTURES_DRAWN", "SIDEWAYS", "Camera"]

PATIENCE_MS = 120_000
_MAX_HEIGHT = 9000
_SETTLE_MS = 700
PICTURES_DRAWN = """
() => {
  const images = [...document.querySelectorAll('img')].filter(i => i.src.startsWith('data:'));
  return images.length > 0 && images.every(i => i.complete && i.naturalWidth > 0 && i.clientWidth > 50);
}
"""
"""Of the page's inline pictures each has a size, so the browser has decoded it."""
SIDEWAYS = """
() => [...document.querySelectorAll('li, p')].filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0).length
"""
"""How many lines of text run over what stands beside them."""
_SCROLL_HEIGHT = """
() => Math.max(...[...document.querySelectorAll('*')].map(e => e.scrollHeight))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Takes pictures, if anybody wants them; looking at them is for people, so they decide nothing."""

    folder: Path | None

    @classmethod
    def wanted(cls) -> Camera:
        named = os.environ.get("PAWL_SCREENSHOTS")
        return cls(folder=Path(named) if named else None)

    def take(self, page: Any, name: str, *, whole: bool = True) -> None:
        """`NAME.png` of the page; `whole` stretches the window first, as both UIs scroll inside an element of their own."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        width, height = page.viewport_size["width"], page.viewport_size["height"]
        page.wait_for_timeout(_SETTLE_MS)
        if whole:
            tall = min(int(page.evaluate(_SCROLL_HEIGHT)) + 40, _MAX_HEIGHT)
            page.set_viewport_size({"width": width, "height": max(tall, 700)})
            page.wait_for_timeout(_SETTLE_MS)
        page.screenshot(path=self.folder / f"{name}.png")
        page.set_viewport_size({"width": width, "height": height})

    def take_part(self, part: Any, name: str) -> None:
        """`NAME.png` of one element alone."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.screenshot(path=self.folder / f"{name}.png")
