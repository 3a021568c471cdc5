"""`pawl doctor`: is everything in place for a run that cannot be lost?"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import click
from pydantic import ValidationError

from deployments.cli_options import json_option, print_json, storage_option
from deployments.example_command import command
from deployments.named_storage import storage_at
from deployments.server_libraries import SERVER_LIBRARIES
from deployments.text_tables import bytes_text, printable, table
from ray_workers.config import Scaling
from ray_workers.store.doctor import Finding, examine_storage
from ray_workers.store.errors import PawlError

__all__ = ["doctor_command"]

_BAD = 1
_COLOURS = {"ok": "green", "warning": "yellow", "bad": "red"}
_LIBRARIES = ("torch", "ray", "prefect", "fastapi", "sqlalchemy", "obstore", "pyarrow", "duckdb")
_SMALL_SHM = 2_000_000_000
_TIMEOUT_S = 3.0
_PREFECT_S = 60.0
_ASK_PREFECT = (
    "import json; from prefect.settings import Settings; print(json.dumps(Settings().api.url))"
)


@command(
    "doctor",
    "pawl doctor",
    "pawl doctor --storage s3://bucket/runs --json",
    "pawl doctor --ray-address http://head:8265",
)
@click.option("--ray-address", help="Examine this Ray cluster, as for `pawl train`.")
@storage_option
@json_option
def doctor_command(*, ray_address: str | None, storage: str, as_json: bool) -> None:
    """Examine storage, credentials, clocks, versions, shared memory, Prefect and Ray, from this host.

    Writes and removes small probe objects in an existing store. Ends with 1 if anything is bad; warnings do not count.
    """
    examined: list[Callable[[], Iterator[Finding]]] = [
        _versions, lambda: _credentials(storage), lambda: _storage(storage), _shared_memory, _prefect,
        lambda: _ray(ray_address),
    ]  # fmt: skip
    findings = [finding for examine in examined for finding in examine()]
    if as_json:
        print_json([finding.to_json() for finding in findings])
    else:
        rows = [
            [click.style(f.level, fg=_COLOURS[f.level]), f.what, printable(f.told, 300)]
            for f in findings
        ]
        click.echo(table(("", "WHAT", "FOUND"), rows))
    if any(finding.level == "bad" for finding in findings):
        raise SystemExit(_BAD)


def _versions() -> Iterator[Finding]:
    found = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    told = ", ".join(f"{name} {version}" for name, version in found.items())
    yield Finding(what="versions", level="ok", told=f"python {platform.python_version()}, {told}")
    for library in SERVER_LIBRARIES:
        if unfit := library.unfit():
            yield Finding(what=library.name, level="bad", told=unfit)


def _storage(storage: str) -> Iterator[Finding]:
    try:
        target = storage_at(storage)
    except PawlError as error:
        yield Finding(what="storage", level="bad", told=error.message)
        return
    yield from examine_storage(target.url, target.credentials)


def _credentials(storage: str) -> Iterator[Finding]:
    """Whether they are there, never what they are; whether they serve is shown by reading the storage."""
    if not storage.startswith("s3://"):
        return
    named = [
        name
        for name in (
            "AWS_ACCESS_KEY_ID",
            "AWS_ROLE_ARN",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        )
        if os.environ.get(name)
    ]
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "AWS")
    if named:
        told = f"{', '.join(named)} set, endpoint {endpoint.rpartition('@')[2]}"
        yield Finding(what="credentials", level="ok", told=told)
        return
    told = "no AWS variable is set: only an instance's own role can serve"
    if os.environ.get("AWS_PROFILE"):
        told = (
            'AWS_PROFILE is set, and profiles are not read: eval "$(aws configure export-credentials --format env)" '
            "puts their keys into the environment"
        )
    yield Finding(what="credentials", level="warning", told=told)


def _shared_memory() -> Iterator[Finding]:
    folder = Path("/dev/shm")  # noqa: S108 - the staging default
    if not folder.is_dir():
        yield Finding(
            what="shared memory", level="bad", told=f"{folder} is not there: set saving.staging_dir"
        )
        return
    usage = shutil.disk_usage(folder)
    level = "ok" if usage.free >= _SMALL_SHM else "warning"
    yield Finding(
        what="shared memory",
        level=level,
        told=f"{bytes_text(usage.free)} of {bytes_text(usage.total)} free; each worker takes its share of the state, times saving.buffers (2)",
    )


def _prefect() -> Iterator[Finding]:
    url, where = os.environ.get("PREFECT_API_URL"), ""
    if not url:
        try:
            url, where = _prefects_setting(), " (from Prefect's own settings)"
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            told = f"no PREFECT_API_URL, and Prefect's own settings cannot be read: {type(error).__name__}; try `prefect config view`"
            yield Finding(what="prefect", level="bad", told=told)
            return
    if not url:
        told = "no PREFECT_API_URL, here or in Prefect's own settings: a run starts its own server"
        yield Finding(what="prefect", level="ok", told=told)
        return
    shown = f"{url.rpartition('@')[2]}{where}"
    if not url.startswith(("http://", "https://")):
        yield Finding(what="prefect", level="bad", told=f"{shown} is no http URL")
        return
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=_TIMEOUT_S):  # noqa: S310 - checked above
            pass
    except (urllib.error.URLError, OSError, ValueError) as error:
        yield Finding(what="prefect", level="bad", told=f"{shown} does not answer: {error}")
        return
    yield Finding(what="prefect", level="ok", told=f"{shown} answers")


def _prefects_setting() -> str | None:
    """The server that `prefect config set` or a file names. In a process of its own: importing Prefect takes seconds and memory."""
    asked = subprocess.run(  # noqa: S603 - our own interpreter and text
        [sys.executable, "-c", _ASK_PREFECT],
        capture_output=True,
        text=True,
        timeout=_PREFECT_S,
        check=True,
    )
    found = json.loads(asked.stdout.splitlines()[-1])
    return found if isinstance(found, str) else None


def _ray(address: str | None) -> Iterator[Finding]:
    """The cluster that `pawl train --ray-address` would train on: no other setting leads a run to one."""
    named = os.environ.get("RAY_ADDRESS")
    if address == "auto":
        address = named  # the one place where Ray itself looks at the variable
        if not address:
            told = "auto: the cluster that runs on this node; not examined"
            yield Finding(what="ray", level="ok", told=told)
            return
    if not address:
        told = "a run starts its own cluster, unless it is given --ray-address"
        unread = f"; RAY_ADDRESS ({named.rpartition('@')[2]}) is not read" if named else ""
        yield Finding(what="ray", level="warning" if named else "ok", told=f"{told}{unread}")
        return
    yield _ray_at(address)


def _ray_at(address: str) -> Finding:
    try:
        Scaling(ray_address=address)  # says what no run would accept
        if address.startswith(("http://", "https://")):
            told = _ask_job_server(address)
        else:
            host, _, port = address.rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT_S):
                told = "answers; only a process on one of its nodes can join it"
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        return Finding(what="ray", level="bad", told=problem)
    except ValueError:
        told = f"{address} is no address of a Ray cluster: http://host:8265 or host:6379"
        return Finding(what="ray", level="bad", told=told)
    except OSError as error:
        return Finding(what="ray", level="bad", told=f"{address} does not answer: {error}")
    return Finding(what="ray", level="ok", told=f"{address} {told}")


def _ask_job_server(address: str) -> str:
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=_TIMEOUT_S):  # noqa: S310 - http alone comes here
            return "answers"
    except urllib.error.HTTPError as error:
        if error.code not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise
        return "answers, and asks for a token (RAY_AUTH_MODE=token and RAY_AUTH_TOKEN)"
