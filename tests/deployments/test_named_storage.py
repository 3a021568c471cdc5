"""`--storage` of the commands that read: a place, or the name of a block that a Prefect server holds."""

from __future__ import annotations

import httpx
import pytest
from click.testing import CliRunner
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.cli import pawl
from deployments.named_storage import storage_at
from ray_workers.store.errors import InvalidInputError, StoreUnavailableError
from tests.support.factories import MadeUpRun, folder_store

BLOCK = "pawl-storage/main"


@pytest.fixture
def server():
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        yield


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    "words",
    [
        "versions digits",
        "show digits@1",
        "runs",
        "tags digits",
        "gc digits",
        "health",
        "export digits@1 --to out",
    ],
)
def test_every_command_reads_what_a_block_names(monkeypatch, tmp_path, words):
    run = MadeUpRun(store=folder_store(tmp_path / "store"))
    run.start()
    run.commit(10)
    asked = []

    def document(slug: str, name: str) -> dict[str, str]:
        asked.append((slug, name))
        return {"url": str(tmp_path), "root": "store"}

    monkeypatch.setattr("tasks.blocks.block_document", document)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(pawl, [*words.split(), "--storage", BLOCK])
    assert ("pawl-storage", "main") in asked
    assert "There is no" not in result.output, result.output


def test_without_a_server_a_blocks_name_says_what_to_set():
    with (
        temporary_settings({PREFECT_API_URL: ""}),
        pytest.raises(InvalidInputError, match="PREFECT_API_URL"),
    ):
        storage_at(BLOCK)


@pytest.mark.usefixtures("server")
def test_a_server_that_is_away_is_named(monkeypatch):
    def away(*_: str) -> None:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr("tasks.blocks.block_document", away)
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:9.*pawl-storage/main"):
        storage_at(BLOCK)


def test_a_folder_of_that_name_is_written_with_a_dot(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert storage_at("./pawl-storage/main").url == str(tmp_path / "pawl-storage" / "main")
