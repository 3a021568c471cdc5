"""Make a Prefect server ready for Pawl, as often as one likes, or only look at it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import click
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import ActionTypes, CallWebhook, SendNotification
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.variables import Variable
from pydantic import SecretStr

from deployments.automations import TAG, ComeBack, automations
from deployments.bringing_back import bring_back
from deployments.deployment_file import read_deployments
from deployments.setup_deployments import DeploymentSet
from deployments.setup_pieces import (
    AutomationSet,
    BlockDocument,
    BlockType,
    Piece,
    Worker,
    WorkPool,
)
from ray_workers.store.errors import InvalidInputError, StoreUnavailableError
from ray_workers.store.opening import normalise_url
from tasks.blocks import DEFAULT_STORAGE, PawlCluster, PawlStorage

__all__ = ["BlockWishes", "set_up"]

_REMEMBERED = "pawl_setup"
"""A Prefect variable: what `pawl setup` was last told, so that a plain `pawl setup` changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWishes:
    """What the blocks named `main` shall hold; None leaves one that is there as it is."""

    storage: str | None = None
    cluster: str | None = None
    if_missing: bool = False
    """Leave one that is there as it is in any case."""

    def overwrites(self, wish: str | None) -> bool:
        return bool(wish) and not self.if_missing


def set_up(
    *, check: bool, blocks: BlockWishes, project: str | None, options: Mapping[str, Any]
) -> bool:
    """Put in place what is missing, or with `check` only say what is; whether all is there now.

    Putting in place also brings back what the automations missed while the server was down (`bringing_back`).

    Raises:
        InvalidInputError: no server is named, or a value cannot be used.
        StoreUnavailableError: the server does not answer.
    """
    if not PREFECT_API_URL.value():
        raise InvalidInputError(
            "PREFECT_API_URL is not set: start a server with `make up` or `prefect server start`, and name it in "
            "PREFECT_API_URL, as in http://127.0.0.1:4200/api."
        )
    with get_client(sync_client=True) as client:
        _reach(client)
        told = _remember(client, {**options, "project": project}, keep=not check)
        rules = _rules(told)
        pieces = _pieces(client, told, rules, blocks)
        if check:
            return _look(client, pieces)
        _put(client, pieces)
        bring_back(client, rules, click.echo)
        return True


def _put(client: SyncPrefectClient, pieces: list[Piece]) -> None:
    for piece in pieces:
        before = piece.missing(client)
        piece.put(client)
        after = piece.missing(client)
        if after is not None:
            click.echo(f"  {piece.name}: {after}. {piece.why}")
        else:
            click.echo(f"  {piece.name}: {'put in place' if before else 'already there'}")
    click.echo(f"Runs with the tag {TAG!r} are looked after from now on.")


def _look(client: SyncPrefectClient, pieces: list[Piece]) -> bool:
    lacking = [(piece, said) for piece in pieces if (said := piece.missing(client))]
    for piece, said in lacking:
        click.echo(f"  {piece.name}: {said}.\n      {piece.why}")
    click.echo(f"{len(lacking)} of {len(pieces)} are missing." if lacking else "All there.")
    if any(not isinstance(piece, Worker) for piece, _ in lacking):
        click.echo("Run `pawl setup` to put them in place.")
    return not lacking


def _rules(told: Mapping[str, Any]) -> ComeBack:
    rules = ComeBack(**{key: told[key] for key in asdict(ComeBack()) if key in told})
    return replace(rules, backoff_seconds=tuple(rules.backoff_seconds))


def _pieces(
    client: SyncPrefectClient, told: Mapping[str, Any], rules: ComeBack, blocks: BlockWishes
) -> list[Piece]:
    wanted = automations(rules, _notification(client, told.get("notify")))
    return [
        BlockType(block=PawlStorage),
        BlockType(block=PawlCluster),
        BlockDocument(
            block=_storage_block(blocks.storage),
            document="main",
            overwrite=blocks.overwrites(blocks.storage),
        ),
        BlockDocument(
            block=_cluster_block(blocks.cluster),
            document="main",
            overwrite=blocks.overwrites(blocks.cluster),
        ),
        WorkPool(),
        AutomationSet(wanted=wanted),
        DeploymentSet(file=read_deployments(), project=told.get("project")),
        Worker(),
    ]


def _storage_block(storage: str | None) -> PawlStorage:
    wanted = storage or os.environ.get("PAWL_STORAGE") or DEFAULT_STORAGE
    if wanted.startswith("pawl-storage/"):
        raise InvalidInputError(f"{wanted!r} is a block's name: give --storage a URL or a folder.")
    url = normalise_url(wanted)
    if not (storage and url.startswith("s3://")):
        return PawlStorage(url=url)
    secret = {
        field: SecretStr(os.environ[variable])
        for field, variable in (
            ("access_key_id", "AWS_ACCESS_KEY_ID"),
            ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
            ("session_token", "AWS_SESSION_TOKEN"),
        )
        if os.environ.get(variable)
    }
    return PawlStorage(
        url=url,
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        access_key_id=secret.get("access_key_id"),
        secret_access_key=secret.get("secret_access_key"),
        session_token=secret.get("session_token"),
    )


def _cluster_block(cluster: str | None) -> PawlCluster:
    if cluster in {None, "local"}:
        return PawlCluster()
    is_url = str(cluster).startswith(("http://", "https://"))
    block = PawlCluster(kind="jobs" if is_url else "existing", address=cluster)
    block.ray_address()  # refused before it is kept
    return block


def _notification(client: SyncPrefectClient, reference: str | None) -> ActionTypes | None:
    if not reference:
        return None
    slug, _, name = reference.partition("/")
    try:
        found = client.read_block_document_by_name(name, slug)
    except ObjectNotFound:
        raise InvalidInputError(
            f"There is no block {reference!r} to notify: create it in the UI under Blocks, or correct the name."
        ) from None
    text = "Pawl gave up flow run {{ event.resource.name }}: {{ event.resource['prefect.state-message'] }}"
    if slug == "webhook":
        return CallWebhook(block_document_id=found.id, payload=text)
    return SendNotification(block_document_id=found.id, subject="Pawl gave up a run", body=text)


def _remember(
    client: SyncPrefectClient, options: Mapping[str, Any], *, keep: bool
) -> dict[str, Any]:
    """The options of all calls so far, the newest on top."""
    found: Any = Variable.get(_REMEMBERED)
    told = dict(found) if isinstance(found, dict) else {}
    given = {
        "max_runs": options["max_runs"],
        "backoff_seconds": _seconds(options["backoff"]),
        "lost_after_seconds": options["lost_after"],
        "stuck_after_seconds": options["stuck_after"],
        "notify": "" if options["notify"] == "none" else options["notify"],
        "project": options["project"],
    }
    given = {key: value for key, value in given.items() if value is not None}
    merged = {**told, **given}
    _rules(merged)  # refused before it is kept
    _notification(client, merged.get("notify"))
    if keep and given:
        Variable.set(_REMEMBERED, merged, overwrite=True)
    return merged


def _seconds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInputError(
            f"--backoff {text!r} is not of the form 30,60,300: whole seconds with commas between."
        ) from None


def _reach(client: SyncPrefectClient) -> None:
    error = client.api_healthcheck()
    if error is not None:
        raise StoreUnavailableError(
            f"No Prefect server answers at {PREFECT_API_URL.value()}: {error}. Is it started?"
        )
