"""Chromium, and Pawl as `make up` puts it on a machine, for tests that look and click."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.stack import LocalStack
from tests.browser.pictures import PATIENCE_MS, Camera
from tests.browser.playground import Playground
from tests.browser.prefect_ui import UIS, PrefectUi
from tests.browser.story import Story, play

_PLAYWRIGHT = Path(__file__).parents[2] / ".browser"
FAILED = pytest.StashKey[bool]()
_FLAGS = [
    "--no-sandbox",  # Chromium refuses its sandbox to root, as in most containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for a module: as long as Playwright is there, nothing else in this process can run an event loop."""
    browser = shutil.which("chromium")
    if browser is None or not _PLAYWRIGHT.is_dir():
        pytest.skip("Chromium or Playwright is not installed: make setup-browser")
    sys.path.append(str(_PLAYWRIGHT))  # at the end, so that what both hold comes from .venv
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - it is there only now

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=browser, args=_FLAGS, headless=True)
        yield launched
        launched.close()


@pytest.fixture
def page(chromium: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """An empty tab without cookies; failed.png and failed.txt keep what it showed when a test fails."""
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(PATIENCE_MS)
    opened = context.new_page()
    yield opened
    if request.node.stash.get(FAILED, False):
        opened.screenshot(path=tmp_path / "failed.png")
        (tmp_path / "failed.txt").write_text(opened.inner_text("body"))
    context.close()


@pytest.fixture
def camera() -> Camera:
    return Camera.wanted()


@pytest.fixture(scope="session")
def playground() -> Iterator[Playground]:
    """Prefect server and worker of their own, set up by `pawl setup`; versions go into a folder."""
    project = Path(tempfile.mkdtemp(prefix="pawl-demo-"))  # a short path, for the pictures
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stack = LocalStack(
        project=project, folder=project / ".pawl/stack", port=port, with_s3=False, tell=print
    )
    try:
        stack.up()
        yield Playground(stack=stack)
        kept = os.environ.get("PAWL_KEEP_PLAYGROUND")
    finally:
        stack.down()
    if not kept:
        shutil.rmtree(project)


@pytest.fixture(params=UIS)
def ui(page: Any, playground: Playground, request: pytest.FixtureRequest) -> PrefectUi:
    """Each of the two UIs, in an empty tab."""
    return PrefectUi(page=page, url=playground.stack.ui_url, name=request.param)


@pytest.fixture(scope="session")
def story(playground: Playground) -> Story:
    return play(playground)
