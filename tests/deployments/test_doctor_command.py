import http.server
import json
import threading

import pytest
from click.testing import CliRunner

from deployments.cli import pawl
from ray_workers.store import doctor
from ray_workers.store.doctor import examine_storage
from ray_workers.store.errors import StoreRefusedError
from tests.support.factories import folder_store


@pytest.fixture
def url(tmp_path, monkeypatch):
    folder_store(tmp_path)
    for name in (
        "PREFECT_API_URL",
        "RAY_ADDRESS",
        "AWS_ACCESS_KEY_ID",
        "AWS_PROFILE",
        "AWS_ROLE_ARN",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PAWL_STORAGE", str(tmp_path))
    # Asking Prefect takes a process and seconds; one test does it.
    monkeypatch.setattr("deployments.doctor_command._prefects_setting", lambda: None)
    return str(tmp_path)


def examined(code=0, *words):
    result = CliRunner().invoke(pawl, ["doctor", "--json", *words])
    assert result.exit_code == code, result.output
    return {finding["what"]: finding for finding in json.loads(result.stdout)}


def test_a_store_that_serves_is_ok_and_left_as_it_was(url, tmp_path):
    before = sorted(tmp_path.rglob("*.json"))
    found = examined()
    assert {found[what]["level"] for what in ("versions", "storage", "atomic create", "clock")} == {
        "ok"
    }
    assert found["prefect"]["told"].startswith("no PREFECT_API_URL")
    assert sorted(tmp_path.rglob("*.json")) == before
    assert not [path for path in tmp_path.rglob("clock-*") if path.is_file()]
    assert "atomic create" in CliRunner().invoke(pawl, ["doctor", "--storage", url]).stdout


def test_no_store_yet_is_a_warning_and_nothing_is_made(url, tmp_path):
    place = tmp_path / "new"
    assert examined(0, "--storage", str(place))["storage"]["level"] == "warning"
    assert not place.exists()
    assert examined(1, "--storage", "ftp://x/y")["storage"]["level"] == "bad"


def test_a_store_that_cannot_create_atomically_is_bad(url, monkeypatch):
    def refuse(_store):
        raise StoreRefusedError("it ignores the condition")

    monkeypatch.setattr(doctor, "probe_create_only", refuse)
    (_, found) = examine_storage(url)
    assert (found.what, found.level, found.told) == (
        "atomic create",
        "bad",
        "it ignores the condition",
    )


def test_a_clock_that_is_off_is_a_warning(url, monkeypatch):
    monkeypatch.setattr(doctor, "epoch_seconds", lambda: 1000.0)
    found = list(examine_storage(url))[-1]
    assert (found.what, found.level) == ("clock", "warning")


def test_services_that_do_not_answer_are_bad(url, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://user:secret@127.0.0.1:9/api")
    found = examined(1, "--ray-address", "127.0.0.1:9")
    assert (found["prefect"]["level"], found["ray"]["level"]) == ("bad", "bad")
    assert "secret" not in json.dumps(found)
    monkeypatch.setenv("PREFECT_API_URL", "file:///etc/passwd")
    assert "is no http URL" in examined(1)["prefect"]["told"]


def test_a_server_that_prefects_own_settings_name_is_asked(monkeypatch, tmp_path):
    folder_store(tmp_path)
    monkeypatch.setenv("PAWL_STORAGE", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "profiles.toml").write_text(
        'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://user:secret@127.0.0.1:9/api"\n'
    )
    found = examined(1)["prefect"]
    assert found["level"] == "bad"
    assert found["told"].startswith("127.0.0.1:9/api (from Prefect's own settings) does not answer")
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", "none")
    assert "cannot be read" in examined(1)["prefect"]["told"]


def test_a_variable_that_no_run_reads_is_told(url, monkeypatch):
    assert "starts its own cluster" in examined()["ray"]["told"]
    monkeypatch.setenv("RAY_ADDRESS", "http://user:secret@head:8265")
    found = examined(0, "--storage", url)["ray"]
    assert (found["level"], "RAY_ADDRESS (head:8265) is not read" in found["told"]) == (
        "warning",
        True,
    )


@pytest.mark.usefixtures("url")
@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ray://head:10001", "does not work over the Ray Client"),
        ("http://me:secret@head:8265", "must hold no user or password"),
        ("head", "is no address of a Ray cluster"),
        ("head:dashboard", "is no address of a Ray cluster"),
        ("http://127.0.0.1:9", "does not answer"),
    ],
)
def test_an_address_that_no_run_could_use_is_bad(address, told):
    found = examined(1, "--ray-address", address)["ray"]
    assert found["level"] == "bad"
    assert told in found["told"]
    assert "secret" not in found["told"]


class _Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        """Quiet."""


def test_services_that_answer_are_ok(url, monkeypatch):
    server = http.server.HTTPServer(("127.0.0.1", 0), _Healthy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
        at = f"127.0.0.1:{server.server_port}"
        for address in (at, f"http://{at}", f"http://{at}/"):
            found = examined(0, "--ray-address", address)
            assert (found["prefect"]["level"], found["ray"]["level"]) == ("ok", "ok")
            assert found["ray"]["told"].startswith(f"{address} answers")
        monkeypatch.setenv("RAY_ADDRESS", at)
        assert examined(0, "--ray-address", "auto")["ray"]["told"].startswith(f"{at} answers")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_credentials_are_told_to_be_there_and_never_shown(url, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    words = ("--storage", "s3://bucket/prefix")
    assert examined(1, *words)["credentials"]["level"] == "warning"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    found = examined(1, *words)
    assert found["credentials"]["level"] == "ok"
    assert "AKIA" not in json.dumps(found)
