"""`pawl doctor`: is everything in place for a run that cannot be lost?"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from deployments.cli_options import json_option, print_json, storage_option
from deployments.example_command import command
from deployments.server_libraries import SERVER_LIBRARIES
from deployments.text_tables import bytes_text, printable, table
from ray_workers.store.doctor import Finding, examine_storage

__all__ = ["doctor_command"]

_BAD = 1
_COLOURS = {"ok": "green", "warning": "yellow", "bad": "red"}
_LIBRARIES = ("torch", "ray", "prefect", "fastapi", "sqlalchemy", "obstore", "pyarrow", "duckdb")
_SMALL_SHM = 2_000_000_000
_TIMEOUT_S = 3.0
_RAY_PORT = 6379


@command("doctor", "pawl doctor", "pawl doctor --storage s3://bucket/runs --json")
@storage_option
@json_option
def doctor_command(*, storage: str, as_json: bool) -> None:
    """Examine storage, credentials, clocks, versions, shared memory, Prefect and Ray, from this host.

    Writes and removes small probe objects in an existing store. Ends with 1 if anything is bad; warnings do not count.
    """
    examined: list[Callable[[], Iterator[Finding]]] = [
        _versions, lambda: _credentials(storage), lambda: examine_storage(storage), _shared_memory, _prefect, _ray,
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


def _credentials(storage: str) -> Iterator[Finding]:
    """Whether they are there, never what they are; whether they serve is shown by reading the storage."""
    if not storage.startswith("s3://"):
        return
    named = [
        name
        for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN")
        if os.environ.get(name)
    ]
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "AWS")
    if named:
        told = f"{', '.join(named)} set, endpoint {endpoint.rpartition('@')[2]}"
        yield Finding(what="credentials", level="ok", told=told)
    else:
        yield Finding(
            what="credentials",
            level="warning",
            told="no AWS variable is set: only an instance's own role can serve",
        )


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
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        yield Finding(
            what="prefect", level="ok", told="no PREFECT_API_URL: a run starts its own server"
        )
        return
    shown = url.rpartition("@")[2]
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


def _ray() -> Iterator[Finding]:
    address = os.environ.get("RAY_ADDRESS")
    if not address or address in ("auto", "local"):
        yield Finding(what="ray", level="ok", told="no RAY_ADDRESS: a run starts its own cluster")
        return
    host, _, port = address.removeprefix("ray://").partition(":")
    try:
        with socket.create_connection((host, int(port or _RAY_PORT)), timeout=_TIMEOUT_S):
            pass
    except (OSError, ValueError) as error:
        yield Finding(what="ray", level="bad", told=f"{address} does not answer: {error}")
        return
    yield Finding(what="ray", level="ok", told=f"{address} answers")
