"""A link to a section of a page leads to a heading that the page has, by the names that GitHub gives them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)#([^)\s]+)\)")


def anchors(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_anchor_is_a_heading(page):
    gone = [
        f"{file}#{anchor}"
        for file, anchor in _LINK.findall(page.read_text())
        if anchor not in set(anchors(page.parent / file if file else page))
    ]
    assert gone == []


def test_there_are_anchors_and_one_that_is_not_there_is_not_found():
    assert sum(len(_LINK.findall(page.read_text())) for page in PAGES) > 10
    assert "2-deploy" in set(anchors(ROOT / "docs" / "deploying.md"))
    assert "3-deploy" not in set(anchors(ROOT / "docs" / "deploying.md"))
