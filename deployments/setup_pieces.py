"""What must be on a Prefect server for Pawl to work there: each piece can be looked for and put in place, any number of times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import WorkerStatus
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.workers.process import ProcessWorker

from deployments.automations import PREFIX

__all__ = [
    "POOL",
    "AutomationSet",
    "BlockDocument",
    "BlockType",
    "Piece",
    "WorkPool",
    "Worker",
]

POOL = "pawl"


class Piece(Protocol):
    """One thing that must be there. `missing` reads only; `put` makes it so and may be called when it is there already."""

    @property
    def name(self) -> str: ...

    @property
    def why(self) -> str:
        """What does not work without it, as a sentence."""

    def missing(self, client: SyncPrefectClient) -> str | None:
        """What is missing or differs; None if all is well."""

    def put(self, client: SyncPrefectClient) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockType:
    """A block's form, in the version that this Pawl has."""

    block: type[Block]

    @property
    def name(self) -> str:
        return f"block type {self.block.get_block_type_slug()}"

    @property
    def why(self) -> str:
        return "Without it the UI has no form for it, and flows cannot use one by name."

    def missing(self, client: SyncPrefectClient) -> str | None:
        try:
            client.read_block_type_by_slug(self.block.get_block_type_slug())
            client.read_block_schema_by_checksum(self.block._calculate_schema_checksum())  # noqa: SLF001 - Prefect's only name for "this version"
        except ObjectNotFound:
            return "not registered in this version"
        return None

    def put(self, client: SyncPrefectClient) -> None:  # noqa: ARG002 - the block makes a client of its own
        self.block.register_type_and_schema()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDocument:
    """A block that the deployments name. One that is there belongs to the user and is left as it is."""

    block: Block
    document: str
    overwrite: bool = False

    @property
    def name(self) -> str:
        return f"block {self.block.get_block_type_slug()}/{self.document}"

    @property
    def why(self) -> str:
        return "The deployments name it in their parameters; their runs fail at once without it."

    def missing(self, client: SyncPrefectClient) -> str | None:
        try:
            client.read_block_document_by_name(self.document, self.block.get_block_type_slug())
        except ObjectNotFound:
            return "not there"
        return None

    def put(self, client: SyncPrefectClient) -> None:
        if self.overwrite or self.missing(client):
            self.block.save(self.document, overwrite=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkPool:
    """The pool that the deployments' runs wait in."""

    name: str = f"work pool {POOL}"
    why: str = "Without it no worker takes a run, and each stays Scheduled."

    def missing(self, client: SyncPrefectClient) -> str | None:
        try:
            found = client.read_work_pool(POOL)
        except ObjectNotFound:
            return "not there"
        return "paused" if found.is_paused else None

    def put(self, client: SyncPrefectClient) -> None:
        template = ProcessWorker.get_default_base_job_template()
        try:
            client.create_work_pool(
                WorkPoolCreate(
                    name=POOL,
                    type="process",
                    base_job_template=template,
                    description="Runs Pawl's flows.",
                )
            )
        except ObjectAlreadyExists:
            return  # its type and template may be the user's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """Somebody must start one; only looked for."""

    name: str = "a worker"
    why: str = f"Runs stay Scheduled until one polls. Start it where training may run: prefect worker start --pool {POOL}"

    def missing(self, client: SyncPrefectClient) -> str | None:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            return "no pool to poll"
        found = client.read_workers_for_work_pool(POOL)
        online = [worker for worker in found if worker.status == WorkerStatus.ONLINE]
        return None if online else f"none of {len(found)} known workers is online"

    def put(self, client: SyncPrefectClient) -> None:
        """Nothing: it is not this program's to start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomationSet:
    """All automations whose name begins with Pawl's prefix: exactly the wanted ones."""

    wanted: Sequence[AutomationCore]

    @property
    def name(self) -> str:
        return f"{len(self.wanted)} automations"

    @property
    def why(self) -> str:
        return "Without them a run that dies with its worker stays Running for ever, and a crashed one is not tried again."

    def missing(self, client: SyncPrefectClient) -> str | None:
        there = _automations(client)
        absent = [each.name for each in self.wanted if each.name not in there]
        differ = [
            each.name
            for each in self.wanted
            if each.name in there and not _same(each, there[each.name])
        ]
        surplus = sorted(set(there) - {each.name for each in self.wanted})
        parts = [("not there", absent), ("different", differ), ("of an older set-up", surplus)]
        said = [f"{what}: {', '.join(map(repr, names))}" for what, names in parts if names]
        return "; ".join(said) or None

    def put(self, client: SyncPrefectClient) -> None:
        there = _automations(client)
        for each in self.wanted:
            found = there.pop(each.name, None)
            if found is None:
                client.create_automation(each)
            elif not _same(each, found):
                client.update_automation(found.id, each)
        for left in there.values():
            client.delete_automation(left.id)


def _automations(client: SyncPrefectClient) -> dict[str, Automation]:
    return {each.name: each for each in client.read_automations() if each.name.startswith(PREFIX)}


def _same(wanted: AutomationCore, found: Automation) -> bool:
    return bool(_essence(wanted) == _essence(found))


def _essence(automation: AutomationCore) -> Any:
    """What Pawl decides of an automation; the server adds ids of its own."""
    fields = {"name", "description", "enabled", "trigger", "actions"}
    return _without_ids(automation.model_dump(mode="json", include=fields))


def _without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_ids(v) for k, v in value.items() if k not in {"id", "resource_id"}}
    if isinstance(value, list):
        inner = [_without_ids(each) for each in value]
        return sorted(inner, key=str)
    return value
