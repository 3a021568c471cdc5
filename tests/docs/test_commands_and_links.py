"""What the documents tell a reader to type is understood by the command line, and what they point at is there."""

import re
from pathlib import Path

import click
import pytest

from deployments.cli import EXIT_CODES
from tests.support.typed_commands import parse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]  # fmt: skip
_TYPED = re.compile(r"^\$ (?:\.venv/bin/)?(pawl .*)$", re.MULTILINE)
_INLINE = re.compile(r"`(pawl [a-z][^`]*)`")
_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
_NAMED = re.compile(r"`((?:docs|deployments|flows|tasks|ray_workers|tests|benchmarks)/[\w./-]+\.\w+)`")  # fmt: skip


def commands(page):
    text = page.read_text()
    return [(c, True) for c in _TYPED.findall(text)] + [(c, False) for c in _INLINE.findall(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_understood(page):
    wrong = []
    for text, whole in commands(page):
        try:
            parse(" ".join(text.split()), whole=whole)
        except (click.ClickException, AssertionError, ValueError) as error:
            wrong.append((text, str(getattr(error, "message", error))))
    assert wrong == []


def test_the_pages_have_commands_at_all():
    assert sum(len(commands(page)) for page in PAGES) > 80


@pytest.mark.parametrize("text", ["pawl nothing", "pawl runs --strage x", "pawl registry burn"])
def test_a_wrong_command_is_found(text):
    with pytest.raises((click.ClickException, AssertionError)):
        parse(text, whole=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_points_at_is_there(page):
    text = page.read_text()
    gone = [link for link in _LINK.findall(text) if not (page.parent / link).exists()]
    gone += [name for name in _NAMED.findall(text) if not (ROOT / name).exists()]
    assert gone == []


def test_the_table_of_exit_codes_is_that_of_the_code():
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES
