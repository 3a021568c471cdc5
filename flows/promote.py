"""The promotion flow: a tag that others rely on moves only through its gate."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from ray_workers.config import PromotionGate
from tasks.promotion import ask_person, move_to, pass_gate

__all__ = ["promote"]


@flow(name="pawl-promote", validate_parameters=True)
def promote(
    version: str,
    tag: str = "production",
    storage: str | None = None,
    gate: PromotionGate = PromotionGate(),
) -> State[Any]:
    """Move a tag to a version if it passes the gate.

    Args:
        version: RUN@N, RUN@TAG, RUN@latest, RUN@sound or RUN@best.
        tag: The tag to move; protected tags move this way.
        storage: Folder, s3://bucket/prefix, or a storage block as pawl-storage/NAME. Empty: PAWL_STORAGE, else ./pawl-store.
        gate: What the version must satisfy, and whether a person is asked.
    """
    promotion = pass_gate(version, tag, storage, gate)
    if not promotion.result.passed:
        return Failed(message=f"Not promoted: {promotion.result.reason}")
    if promotion.in_place:
        return Completed(message=f"{promotion.stored.reference} is {tag} already")
    approval = ask_person(promotion, gate.approval_minutes) if gate.approval else None
    if approval is not None and not approval.approve:
        return Cancelled(message=f"Not promoted: not approved. {approval.comment}")
    move_to(promotion, approval)
    return Completed(message=f"{promotion.stored.reference} is {tag} now")
