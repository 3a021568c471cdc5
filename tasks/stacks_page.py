"""One artifact that holds what every rank did when ranks hung."""

from __future__ import annotations

import logging

from prefect.artifacts import create_markdown_artifact

from ray_workers.messages import PawlEvent
from tasks.artifact_keys import artifact_key

__all__ = ["publish_stacks", "stacks_page"]

_MOST = 180_000
"""Characters; Prefect's page grows slow with more."""
_log = logging.getLogger(__name__)


def stacks_page(event: PawlEvent) -> str:
    """Markdown; ranks that hang come first, and as many as fit."""
    hung = {str(rank) for rank in event.details.get("ranks", ())}
    stacks = event.details.get("stacks", {})
    parts, length = [event.message], len(event.message)
    for rank in sorted(stacks, key=lambda name: (name not in hung, int(name))):
        said = str(stacks[rank]).replace("```", "` ` `")  # a stack must not end its own block
        part = f"## Rank {rank}{' (no step)' if rank in hung else ''}\n\n```\n{said}\n```"
        if length + len(part) > _MOST:
            parts.append("The other ranks are left out.")
            break
        parts.append(part)
        length += len(part)
    return "\n\n".join(parts)


def publish_stacks(run: str, event: PawlEvent) -> None:
    """Put them on the flow run's page. Never raises: the attempt is ending, and must end in order."""
    try:
        create_markdown_artifact(
            key=artifact_key("stacks", run), markdown=stacks_page(event), description=event.message
        )
    except Exception as error:  # noqa: BLE001 - as said above
        _log.warning("The stacks could not be put on the page: %s", error)
