"""Every positive control of the fault sweep names a rule that FORMAT.md has, in the section that has it."""

import re

import pytest

from tests.support.format_document import read, sections
from tests.support.simulation.controls import CONTROLS

TEXT = read()


def says(rule):
    """Whether the section has the numbered rule, or a row for each of the kinds."""
    found = re.fullmatch(r"§(\d+)(?:, rule | )(.+)", rule)
    assert found is not None, rule
    number, rest = found.groups()
    (body,) = [text for title, text in sections(TEXT).items() if title.startswith(f"§{number} ")]
    if rest.isdecimal():
        return re.search(rf"^{rest}\. ", body, re.MULTILINE) is not None
    return all(re.search(rf"^\| `{kind}` \|", body, re.MULTILINE) for kind in rest.split(", "))


@pytest.mark.parametrize("rule", sorted({control.rule for control in CONTROLS}))
def test_the_rule_of_a_control_is_there(rule):
    assert says(rule)


@pytest.mark.parametrize("rule", ["§13, rule 99", "§9 Commit", "§6 Tagged, Nothing"])
def test_a_rule_that_is_not_there_is_found(rule):
    assert not says(rule)
