import json
import re

import pytest
from click.testing import CliRunner

from deployments.cli import pawl
from deployments.example_command import ExampleCommand
from tests.support.factories import MadeUpRun, folder_store
from tests.support.typed_commands import every_command, parse

COMMANDS = dict(every_command())
EXAMPLES = {n: c.examples for n, c in COMMANDS.items() if isinstance(c, ExampleCommand)}
# They show nothing that a program would read: their outcome is the exit code, or a path as it is.
WITHOUT_JSON = {"train", "setup", "up", "down", "registry path"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_ends_with_examples_that_can_be_typed(name):
    examples = EXAMPLES[name]
    text = CliRunner().invoke(pawl, [*name.split(), "--help"]).stdout
    shown = text.partition("Examples:\n")[2].splitlines()
    assert [line.strip() for line in shown] == list(examples)
    assert examples
    for example in examples:
        assert re.match(rf"pawl {name}\b", example)
        parse(example, whole=True)
    assert "\b" not in text
    assert "\\b" not in text


def test_the_commands_have_examples():
    assert len(EXAMPLES) >= 25


@pytest.mark.parametrize("name", COMMANDS)
def test_whatever_shows_something_has_json(name):
    options = {option for p in COMMANDS[name].params for option in p.opts}
    assert ("--json" in options) == (name not in WITHOUT_JSON)


def test_a_deletion_is_told_as_json_and_asks_beside_it(tmp_path):
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    run.commit(10)
    run.end()
    words = ["delete", "digits", "--json", "--storage", str(tmp_path)]
    asked = CliRunner().invoke(pawl, words, input="y\n")
    assert asked.exit_code == 0
    assert "for ever?" in asked.stderr
    assert json.loads(asked.stdout)["swept"] == [1]
