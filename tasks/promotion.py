"""Promote a version: the gate, a person if one is asked for, and the one record that moves the tag."""

from __future__ import annotations

import contextlib
import contextvars
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import torch
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from pydantic import Field

from ray_workers.config import PromotionGate
from ray_workers.loading import StoredVersion, model_state, open_version
from ray_workers.promotion import Candidate, GateCheck, GateResult, PromotionRules, check_gate
from ray_workers.store.attempts import read_run, this_process
from ray_workers.store.errors import DamageError, MissingError, PawlError
from ray_workers.store.log import RunLog
from ray_workers.store.run_state import VersionState
from ray_workers.store.tags import check_tag_name, move_tag
from ray_workers.store.versions import load_manifest
from tasks.blocks import storage_target
from tasks.markdown_text import plain, table
from tasks.run_identity import current_identity

__all__ = [
    "ARTIFACT_KEY",
    "PROMOTED_EVENT",
    "Approval",
    "Promotion",
    "ask_person",
    "move_to",
    "pass_gate",
]

ARTIFACT_KEY = "pawl-promotion"
PROMOTED_EVENT = "pawl.version.promoted"
_LONGER_S = 300.0
"""So much later than this flow's own answer would the pause run out on Prefect's server."""
_PATIENCE_S = 60.0


class Approval(RunInput):
    """The form that a person fills in on the paused flow run's page."""

    approve: bool = Field(default=False, description="Move the tag.")
    who: str = Field(default="", description="Who decides; stands in the run's log.")
    comment: str = Field(default="", description="Why.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """A candidate and what the gate said."""

    stored: StoredVersion
    tag: str
    holder: int | None
    result: GateResult
    required: str
    """The rung that the version must still have when the tag moves."""

    @property
    def in_place(self) -> bool:
        """The tag is on the version already: nothing is left to decide."""
        return self.holder == self.stored.version.number


@task(cache_policy=NO_CACHE, task_run_name="pass-gate")
def pass_gate(version: str, tag: str, storage: str | None, gate: PromotionGate) -> Promotion:
    """Hold the version against the rules and the present holder, and publish every check."""
    check_tag_name(tag)
    # Without a metric the gate compares nothing, and RUN@best goes by the loss, as everywhere.
    by = {} if gate.metric is None else {"metric": gate.metric, "mode": gate.mode}
    stored = open_version(version, storage_target(storage), **by)
    state = read_run(stored.store, stored.run)
    holder = state.tags.get(tag)
    result = check_gate(
        Candidate(version=state.versions[stored.version.number], metrics=stored.manifest.metrics),
        None if holder in {None, stored.version.number} else _held(stored, state.versions.get(holder)),
        PromotionRules(
            required=gate.required, metric=gate.metric, mode=gate.mode, threshold=gate.threshold,
            allowed_regression=gate.allowed_regression,
        ),
    )  # fmt: skip
    if gate.drill and result.passed:
        result = replace(result, checks=(*result.checks, _drill(stored)))
    promotion = Promotion(
        stored=stored, tag=tag, holder=holder, result=result, required=gate.required
    )
    create_markdown_artifact(
        _page(promotion), key=ARTIFACT_KEY, description=f"{stored.reference} → {tag}"
    )
    get_run_logger().info("Gate for %s: %s", stored.reference, result.reason)
    return promotion


def ask_person(promotion: Promotion, timeout_minutes: float) -> Approval:
    """Pause the flow run until somebody answers its form; no answer is a no. Not a task: a pause belongs to the flow."""
    text = (
        f"Move the tag {promotion.tag} to {promotion.stored.reference}? {promotion.result.reason}"
    )
    nobody = Approval(comment=f"nobody answered within {timeout_minutes:g} minutes")
    try:
        with _answered_for(nobody, 60 * timeout_minutes):
            answer = pause_flow_run(
                wait_for_input=Approval.with_initial_data(description=text),
                timeout=math.ceil(60 * timeout_minutes + _LONGER_S),
                poll_interval=2,
            )
    except FlowPauseTimeout:
        return nobody
    return Approval.model_validate(answer.model_dump())


@contextmanager
def _answered_for(nobody: Approval, limit_s: float) -> Iterator[None]:
    """Give this answer when the time is over, in the name of nobody.

    A pause that runs out on Prefect's server lets the run end in no other state than Failed, which reads as a fault.
    """
    flow_run_id = UUID(current_identity().flow_run_id)

    def answer() -> None:
        with contextlib.suppress(Exception), get_client(sync_client=True) as client:
            client.resume_flow_run(
                flow_run_id, run_input=nobody.model_dump()
            )  # refused when somebody was quicker

    timer = threading.Timer(limit_s, contextvars.copy_context().run, (answer,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@task(cache_policy=NO_CACHE, task_run_name="move-tag")
def move_to(promotion: Promotion, approval: Approval | None) -> None:
    """One record, if the tag is still where the gate saw it and the version still has its rung; then the event.

    Raises:
        RuleRefusedError: somebody moved the tag meanwhile, or the version was given up or quarantined.
    """
    stored = promotion.stored
    by: dict[str, Any] = this_process()
    if approval is not None:
        by |= {"approved_by": approval.who[:200], "comment": approval.comment[:500]}
    log = RunLog(stored.store, stored.run, by=by, patience_s=_PATIENCE_S)
    move = move_tag(
        log,
        promotion.tag,
        stored.version.name,
        expects=promotion.holder,
        required=promotion.required,
    )
    if move is None:
        return
    emit_event(
        PROMOTED_EVENT,
        resource={
            "prefect.resource.id": f"pawl.run.{stored.run}",
            "prefect.resource.name": stored.run,
        },
        payload={
            "version": stored.version.number,
            "tag": promotion.tag,
            "before": promotion.holder,
        },
    )


def _held(stored: StoredVersion, version: VersionState | None) -> Candidate | None:
    """The version that has the tag; None when its commit record was lost: nothing is known of it to compare with."""
    if version is None:
        return None
    try:
        metrics = load_manifest(stored.store, stored.run, version).metrics
    except (DamageError, MissingError):
        metrics = {}
    return Candidate(version=version, metrics=metrics)


def _drill(stored: StoredVersion) -> GateCheck:
    """Everything a user of the weights would read, read back and verified now, in this process."""
    started = time.monotonic()
    try:
        state = model_state(stored)
    except PawlError as error:
        return GateCheck(
            name="drill", passed=False, told=f"the weights do not load: {error.message}"
        )
    weights = [value for value in state.values() if isinstance(value, torch.Tensor)]
    broken = sum(value.is_floating_point() and not _finite(value) for value in weights)
    seconds = time.monotonic() - started
    return GateCheck(
        name="drill",
        passed=broken == 0,
        told=f"{len(weights)} weights loaded in {seconds:.2f} s, {broken} of them not finite",
    )


def _finite(tensor: torch.Tensor) -> bool:
    return math.isfinite(float(tensor.double().abs().sum()))


def _page(promotion: Promotion) -> str:
    result = promotion.result
    rows = [
        ["✅" if c.passed else "❌", plain(c.name, 20), plain(c.told, 300)] for c in result.checks
    ]
    verdict = "passed" if result.passed else "not passed"
    before = "no version" if promotion.holder is None else f"version {promotion.holder}"
    return (
        f"# {plain(promotion.stored.reference, 120)} as {plain(promotion.tag, 80)}: gate {verdict}\n\n"
        f"The tag is on {before} now.\n\n{table(('', 'check', 'outcome'), rows)}\n"
    )
