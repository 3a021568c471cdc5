"""Every message in docs/runbook.md is one that Pawl says: compared with the texts in the code, and many of them made to happen."""

import ast
import re
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner

from deployments.cli import pawl
from ray_workers.health_facts import look_at_root
from ray_workers.health_values import Objective
from ray_workers.store.bodies import Condemn, Retire
from ray_workers.store.clock import utc_now
from tests.support.factories import MadeUpRun, flip_byte, folder_store

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "runbook.md"
GAP = "\0"


def symptoms():
    rows = re.findall(r"^\| (.+?) \| .+? \| .+ \|$", PAGE.read_text(), re.MULTILINE)
    return [text for row in rows for text in re.findall(r"`([^`]+)`", row)]


def messages():
    """Symptoms that are sentences; a name of a command, a column or an artifact is none."""
    return [text for text in symptoms() if " " in text and not text.startswith("pawl ")]


@cache
def templates():
    """Every text of the sources, what is put in at run time as a gap."""
    found = []
    for package in ("ray_workers", "tasks", "deployments", "flows"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    found.append(_joined(node))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def _joined(node):
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values
    )


def pieces(message):
    return [piece.strip() for piece in message.split("…") if piece.strip()]


def says(template, message):
    """Whether the template holds the message's pieces in order."""
    pattern = ".*".join(re.escape(piece) for piece in pieces(message))
    return re.search(pattern, template, re.DOTALL) is not None


@pytest.mark.parametrize("message", messages())
def test_a_message_of_the_runbook_is_one_of_the_code(message):
    assert len("".join(pieces(message))) > 10
    assert [t for t in templates() if says(t, message)], message


def test_a_message_that_nobody_says_is_found():
    assert not [t for t in templates() if says(t, "the flux … is low")]
    assert len(messages()) > 30


# --- made to happen -----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PAWL_STORAGE", str(tmp_path))
    return tmp_path


@pytest.fixture
def run(folder):
    made = MadeUpRun(store=folder_store(folder))
    made.start()
    made.commit(10)
    made.commit(20)
    made.judge(1, 2)
    return made


def said(*words):
    return CliRunner().invoke(pawl, words).output


def at_risk(run):
    later = datetime.fromisoformat(utc_now()) + timedelta(hours=1)
    return look_at_root(run.store, Objective(), now=later).reason


def failed(run):
    run.end("failed", "disk full")
    return said("health")


def quarantined(run):
    run.judge(1, 2, reason="NaN")
    return said("health")


def dropped(run):
    run.told = {"dropped_saves": "2", "dropped_reason": "403"}
    run.commit(30)
    return said("health")


def damaged_slot(run):
    flip_byte(Path(run.store.url), "runs/digits/log/00000000000000000004.json")
    return said("health")


def damaged_manifest(run):
    flip_byte(Path(run.store.url), run.manifest_key(2))
    return said("show", "digits@2")


def unsure(run):
    damaged_slot(run)
    return said("gc", "digits")


def gone(run):
    run.commit(30)
    run.judge(3)
    run.append(Retire(versions=(run.version(1).name,)))
    run.append(Condemn(versions=(run.version(1).name,)))
    return said("verify", "digits@1")


@pytest.mark.parametrize(
    ("message", "provoke"),
    [
        ("… min of work at risk, … allowed: no newer version is …", at_risk),
        ("it … and nobody goes on with it; it would resume from version …", failed),
        ("no version can be resumed: … quarantined", quarantined),
        ("… became no version, the last: …", dropped),
        ("log slots … are damaged and not repaired", damaged_slot),
        ("… is damaged: its bytes do not have the digest that was committed.", damaged_manifest),
        ("Nothing was deleted of …", unsure),
        ("Version … of run … is …: its bytes are not kept any more.", gone),
        ("… cannot be used: … Write an SQL expression over the registry's columns", lambda _: said("search", "no such column > 1")),
        ("The tag … is protected", lambda _: said("tag", "digits@1", "production")),
        ("There is no Pawl store at …", lambda _: said("runs", "--storage", "/nowhere")),
        ("The storage URL must hold no credentials, port or query", lambda _: said("runs", "--storage", "s3://a:b@c")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_the_symptom_shows_when_it_is_made_to_happen(run, message, provoke):
    assert message in symptoms()
    assert says(provoke(run), message)
