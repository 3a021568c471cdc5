"""The interval between saves on the lineage page: a list of what is known, what follows, and what happened."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.markdown_text import plain

__all__ = ["interval_list"]


def interval_list(lines: Sequence[tuple[str, str]]) -> str | None:
    """Markdown below the heading of its section; None when nothing is known."""
    told = [f"- {name}: {plain(text, 300)}" for name, text in lines if text]
    return "\n".join(told) or None
