"""What the documents tell a reader to type is understood by the command line, and what they point at is there."""

import re
import shlex
from pathlib import Path

import click
import pytest

from deployments.cli import pawl

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]  # fmt: skip
_TYPED = re.compile(r"^\$ (?:\.venv/bin/)?(pawl .*)$", re.MULTILINE)
_INLINE = re.compile(r"`(pawl [a-z][^`]*)`")
# Pictures of a browser are made by hand (docs/screenshots.py), after the text.
_LINK = re.compile(r"\]\((?!https?://|#|docs/screenshots/)([^)#\s]+)")
_NAMED = re.compile(r"`((?:docs|deployments|flows|tasks|ray_workers|tests|benchmarks)/[\w./-]+\.\w+)`")  # fmt: skip


def parse(text, *, whole):
    """Parse as the command line would, without running anything; a bare name need not have its arguments."""
    text = text.partition("…")[0].partition(" | ")[0].partition(" && ")[0]
    words = [word.partition("|")[0].strip("[]") for word in shlex.split(text, comments=True)[1:]]
    command: click.Command = pawl
    context = click.Context(pawl, info_name="pawl")
    while words and isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"no command {name!r}"
        command, context = found, click.Context(found, info_name=name, parent=context)
    try:
        command.make_context("pawl", words)
    except click.MissingParameter:
        if whole:
            raise
    except click.exceptions.NoArgsIsHelpError:
        assert not whole


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
