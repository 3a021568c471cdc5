"""`pawl setup`: make a Prefect server ready for Pawl, as often as one likes; `--check` only looks."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from typing import Any

import click
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import ActionTypes, CallWebhook, SendNotification
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.variables import Variable
from pydantic import SecretStr

from deployments.automations import TAG, ComeBack, automations
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

__all__ = ["setup_command"]

_REMEMBERED = "pawl_setup"
"""A Prefect variable: what `pawl setup` was last told, so that a plain `pawl setup` changes nothing."""
_INCOMPLETE = 1


@click.command("setup")
@click.option(
    "--check", is_flag=True, help="Change nothing; say what is missing, and why it matters."
)
@click.option(
    "--storage",
    help="Write the block pawl-storage/main with this URL. Keys are taken from the AWS variables.",
)
@click.option(
    "--project", help="Folder that runs start in, as the workers see it. Default: this one."
)
@click.option("--max-runs", type=int, help="Tries of one flow run in all, from 1 to 9 (default 5).")
@click.option(
    "--backoff", help="Seconds to wait before each new try, as in 10,60,300 (the default)."
)
@click.option(
    "--lost-after", type=int, help="Seconds of silence after which a run is dead (default 150)."
)
@click.option(
    "--notify",
    help="Block that is told when a run is given up, as slack-webhook/NAME or webhook/NAME; 'none' to stop.",
)
def setup_command(*, check: bool, storage: str | None, project: str | None, **options: Any) -> None:
    """Put Pawl's blocks, work pool, automations and deployments on the Prefect server.

    Running it again changes nothing that is right already; options given once are remembered on the server. Blocks that
    are there are yours and stay as they are, unless --storage is given. Exit code of --check: 0 all there, 1 not.
    """
    if not PREFECT_API_URL.value():
        raise InvalidInputError(
            "PREFECT_API_URL is not set: start a server with `make up` or `prefect server start`, and name it in "
            "PREFECT_API_URL, as in http://127.0.0.1:4200/api."
        )
    with get_client(sync_client=True) as client:
        _reach(client)
        told = _remember(client, options, keep=not check)
        pieces = _pieces(client, told, storage, project)
        complete = _look(client, pieces) if check else _put(client, pieces)
    if not complete:
        raise SystemExit(_INCOMPLETE)


def _put(client: SyncPrefectClient, pieces: list[Piece]) -> bool:
    for piece in pieces:
        before = piece.missing(client)
        piece.put(client)
        after = piece.missing(client)
        if after is not None:
            click.echo(f"  {piece.name}: {after}. {piece.why}")
        else:
            click.echo(f"  {piece.name}: {'put in place' if before else 'already there'}")
    click.echo(f"Runs with the tag {TAG!r} are looked after from now on.")
    return True


def _look(client: SyncPrefectClient, pieces: list[Piece]) -> bool:
    lacking = [(piece, said) for piece in pieces if (said := piece.missing(client))]
    for piece, said in lacking:
        click.echo(f"  {piece.name}: {said}.\n      {piece.why}")
    click.echo(f"{len(lacking)} of {len(pieces)} are missing." if lacking else "All there.")
    if any(not isinstance(piece, Worker) for piece, _ in lacking):
        click.echo("Run `pawl setup` to put them in place.")
    return not lacking


def _pieces(
    client: SyncPrefectClient, told: dict[str, Any], storage: str | None, project: str | None
) -> list[Piece]:
    rules = ComeBack(**{key: told[key] for key in asdict(ComeBack()) if key in told})
    rules = replace(rules, backoff_seconds=tuple(rules.backoff_seconds))
    wanted = automations(rules, _notification(client, told.get("notify")))
    return [
        BlockType(block=PawlStorage),
        BlockType(block=PawlCluster),
        BlockDocument(block=_storage_block(storage), document="main", overwrite=bool(storage)),
        BlockDocument(block=PawlCluster(), document="main"),
        WorkPool(),
        AutomationSet(wanted=wanted),
        DeploymentSet(file=read_deployments(), project=project),
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


def _remember(client: SyncPrefectClient, options: dict[str, Any], *, keep: bool) -> dict[str, Any]:
    """The options of all calls so far, the newest on top."""
    found: Any = Variable.get(_REMEMBERED)
    told = dict(found) if isinstance(found, dict) else {}
    given = {
        "max_runs": options["max_runs"],
        "backoff_seconds": _seconds(options["backoff"]),
        "lost_after_seconds": options["lost_after"],
        "notify": "" if options["notify"] == "none" else options["notify"],
    }
    given = {key: value for key, value in given.items() if value is not None}
    merged = {**told, **given}
    ComeBack(
        **{key: merged[key] for key in asdict(ComeBack()) if key in merged}
    )  # refused before it is kept
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
            f"--backoff {text!r} is not of the form 10,60,300: whole seconds with commas between."
        ) from None


def _reach(client: SyncPrefectClient) -> None:
    error = client.api_healthcheck()
    if error is not None:
        raise StoreUnavailableError(
            f"No Prefect server answers at {PREFECT_API_URL.value()}: {error}. Is it started?"
        )
