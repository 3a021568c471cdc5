"""Take pictures of a flow run's lineage page in both of Prefect's pages, with a real browser.

Not a part of Pawl: Playwright is no dependency of it. Install it in an environment of its own, next to any Chromium:

    python3.11 -m venv /tmp/screenshots && /tmp/screenshots/bin/pip install playwright
    apt-get install chromium                  # or: /tmp/screenshots/bin/playwright install chromium

Then, while the Prefect server runs, give its URL, the id of a flow run, the key of its artifact and a folder:

    /tmp/screenshots/bin/python docs/screenshots.py http://127.0.0.1:4200 <flow run id> lineage-digits docs/images

A server on another port than 4200 must be started with PREFECT_UI_API_URL=http://127.0.0.1:<port>/api, or its pages ask
port 4200. The script fails when a picture inside a page was not drawn, or when a page never shows the artifact.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout

_FLAGS = [
    "--no-sandbox",  # Chromium refuses its sandbox to root, as in most containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_PATIENCE_MS = 30_000
_MAX_HEIGHT = 9000
_DRAWN = """
() => {
  const images = [...document.querySelectorAll('img')].filter(i => i.src.startsWith('data:'));
  return images.length > 0 && images.every(i => i.complete && i.naturalWidth > 0 && i.clientWidth > 50);
}
"""
_SHOWS = "key => document.body.innerText.includes(key)"
_SCROLL_HEIGHT = """
() => Math.max(...[...document.querySelectorAll('*')].map(e => e.scrollHeight))
"""


@dataclass(frozen=True)
class Shot:
    name: str
    path: str
    width: int = 1280
    tab: str | None = None
    """To be clicked first."""
    pictures: bool = True
    """The page shows the artifact's body, so its pictures must be drawn."""


def shots(flow_run_id: str, artifact_id: str, key: str) -> list[Shot]:
    run = f"flow-run/{flow_run_id}?tab=Artifacts"
    artifact = f"artifacts/artifact/{artifact_id}"
    return [
        Shot("v2-run", f"/v2/runs/{run}", pictures=False),
        Shot("v2-artifact", f"/v2/{artifact}"),
        Shot("v2-key", f"/v2/artifacts/key/{key}", pictures=False),
        Shot("v2-phone", f"/v2/{artifact}", width=390),
        Shot("v1-run", f"/runs/{run}", tab="Artifacts", pictures=False),
        Shot("v1-artifact", f"/{artifact}"),
        Shot("v1-phone", f"/{artifact}", width=390),
    ]


def find_artifact(server: str, flow_run_id: str, key: str) -> str:
    """The id of the newest artifact of that key and flow run."""
    query = {
        "artifacts": {"key": {"any_": [key]}, "flow_run_id": {"any_": [flow_run_id]}},
        "sort": "CREATED_DESC",
        "limit": 1,
    }
    request = urllib.request.Request(  # noqa: S310 - the server the user named
        f"{server}/api/artifacts/filter",
        data=json.dumps(query).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the same
        found: list[dict[str, Any]] = json.load(answer)
    if not found:
        raise SystemExit(f"Flow run {flow_run_id} has no artifact {key!r}.")
    return str(found[0]["id"])


def take(context: BrowserContext, server: str, shot: Shot, key: str, folder: Path) -> Path:
    """One picture as high as the whole page."""
    page = context.new_page()
    page.set_viewport_size({"width": shot.width, "height": 1000})
    page.goto(f"{server}{shot.path}", wait_until="networkidle", timeout=_PATIENCE_MS)
    file = folder / f"{shot.name}.png"
    try:
        if shot.tab is not None:
            page.get_by_text(shot.tab, exact=True).first.click()
        page.wait_for_function(_SHOWS, arg=key, timeout=_PATIENCE_MS)
        if shot.pictures:
            page.wait_for_function(_DRAWN, timeout=_PATIENCE_MS)
    except PlaywrightTimeout:
        page.screenshot(path=file.with_suffix(".failed.png"))
        raise SystemExit(f"{page.url} does not show the artifact as it should.") from None
    _stretch(page, shot.width)
    page.screenshot(path=file)
    page.close()
    return file


def _stretch(page: Page, width: int) -> None:
    """Both pages scroll inside an element of their own, so the window grows instead."""
    page.wait_for_timeout(700)
    height = min(int(page.evaluate(_SCROLL_HEIGHT)) + 40, _MAX_HEIGHT)
    page.set_viewport_size({"width": width, "height": max(height, 700)})
    page.wait_for_timeout(700)


def main() -> None:
    parser = argparse.ArgumentParser(description="Pictures of a flow run's lineage page.")
    parser.add_argument("server", help="as in http://127.0.0.1:4200")
    parser.add_argument("flow_run_id")
    parser.add_argument("artifact_key", help="as in lineage-digits")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--browser", default=shutil.which("chromium"), help="path of a Chromium")
    parser.add_argument("--only", nargs="*", help="names of pictures to take; by default all")
    asked = parser.parse_args()
    server = asked.server.rstrip("/").removesuffix("/api")
    asked.folder.mkdir(parents=True, exist_ok=True)
    artifact_id = find_artifact(server, asked.flow_run_id, asked.artifact_key)
    wanted = [
        shot
        for shot in shots(asked.flow_run_id, artifact_id, asked.artifact_key)
        if not asked.only or shot.name in asked.only
    ]
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=asked.browser, args=_FLAGS, headless=True
        )
        for shot in wanted:
            print(take(context, server, shot, asked.artifact_key, asked.folder))  # noqa: T201 - a script
        context.close()


if __name__ == "__main__":
    main()
