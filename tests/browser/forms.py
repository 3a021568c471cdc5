"""Forms that Prefect's UIs make from a schema: of a deployment's run, a block, a paused run. Both UIs lay them out alike."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Form"]

_HOLDER = "xpath=ancestor::div[.//fieldset or .//input or .//textarea or .//*[@role='switch']][1]"
"""The least part of the page with a title and what can be filled in below it."""
_EDITOR = "textarea, input, [contenteditable=true]"
_KINDS = re.compile(r"^(str|string|int|integer|float|number|password)$")
"""How the UIs call the other choice where a field may be empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Fields by their titles.

    Args:
        within: the page, or the dialog that shows the form.
    """

    within: Any

    def field(self, title: str) -> Any:
        """The field of that title, with everything below it."""
        exactly = re.compile(rf"^\s*{re.escape(title)}(\s*\(Optional\))?\s*$")
        return self.within.locator("label, h3").filter(has_text=exactly).first.locator(_HOLDER)

    def write(self, title: str, text: str) -> None:
        """Replace what is in the field; one that may be empty is told first that it is not."""
        field = self.field(title)
        field.wait_for()
        kind = field.get_by_role("tab", name=_KINDS).or_(field.get_by_role("button", name=_KINDS))
        if kind.count():
            kind.first.click()
        field.locator(_EDITOR).first.fill(text)

    def write_json(self, title: str, value: Mapping[str, Any]) -> None:
        """Replace what is in an editor of JSON. The newer UI's does not notice when a program selects its text."""
        editor = self.field(title).locator("textarea, [contenteditable=true]").first
        editor.click()
        editor.press("Control+a")
        editor.page.keyboard.insert_text(json.dumps(value))

    def flip(self, title: str) -> None:
        """Turn a switch over."""
        self.field(title).get_by_role("switch").first.click()
