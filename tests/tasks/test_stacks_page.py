from __future__ import annotations

import pytest

from ray_workers.messages import PawlEvent
from tasks import stacks_page as page
from tasks.stacks_page import publish_stacks, stacks_page


def event(**stacks: str) -> PawlEvent:
    details = {
        "ranks": [10],
        "step": 7,
        "stacks": {k.removeprefix("r"): v for k, v in stacks.items()},
    }
    return PawlEvent(kind="hung", message="Rank 10 hangs.", at="", details=details)


def test_the_ranks_that_hang_come_first_then_the_others_in_order() -> None:
    text = stacks_page(event(r2="two", r9="nine", r10="ten", r0="```zero"))
    places = [text.index(f"## Rank {rank}") for rank in (10, 0, 2, 9)]
    assert places == sorted(places)
    assert "## Rank 10 (no step)\n\n```\nten\n```" in text
    assert text.startswith("Rank 10 hangs.")
    assert text.count("```") == 8  # a stack does not end its own block


def test_a_page_of_thousands_of_ranks_stays_readable() -> None:
    text = stacks_page(event(**{f"r{rank}": "x" * 16_000 for rank in range(100)}))
    assert len(text) < 200_000
    assert text.endswith("The other ranks are left out.")


def test_a_page_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: object) -> None:
        raise RuntimeError("no server")

    monkeypatch.setattr(page, "create_markdown_artifact", fails)
    publish_stacks("run", event(r10="ten"))
