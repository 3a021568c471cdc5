"""Every query of the Grafana dashboard, answered by a real Prometheus that scraped a real run."""

import json
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.integration.harness import SMALL, start_pawl, train_arguments, wait_until
from tests.support.ray_head import RayHead

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.prefect]
DASHBOARD = Path(__file__).parents[2] / "deployments" / "grafana-dashboard.json"


def queries():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(p["title"], target["expr"]) for p in panels for target in p["targets"]]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prometheus:
    """Scrapes one file of targets every second."""

    def __init__(self, folder, targets):
        config = folder / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s}\n"
            f"scrape_configs: [{{job_name: ray, file_sd_configs: [{{files: ['{targets}'], refresh_interval: 1s}}]}}]\n"
        )
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        program = shutil.which("prometheus")
        assert program is not None, "make setup-prometheus installs it"
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=self._log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(self._ready, 60, "a ready Prometheus")

    def ask(self, query, at=None):
        answer = httpx.get(
            f"{self.url}/api/v1/query",
            params={"query": query} | ({"time": at} if at else {}),
            timeout=20,
        )
        assert answer.status_code == httpx.codes.OK, answer.text
        return answer.json()["data"]["result"]

    def close(self):
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)
        self._log.close()

    def _ready(self):
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=2).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


@pytest.fixture
def ray_head():
    """A head as an operator starts it: only with a dashboard does Ray write down where its exporters are."""
    with RayHead.running(env={"RAY_metrics_report_interval_ms": "1000"}) as head:
        yield head


def panels_without_data(prometheus):
    asked = [
        (title, query.replace("$__rate_interval", "1m").replace("$run", ".*"))
        for title, query in queries()
    ]
    return [(title, query) for title, query in asked if not prometheus.ask(query)]


def test_every_panel_has_data(prefect_server, ray_head, tmp_path):
    config = {**SMALL, "step_delay": 1.0}
    arguments = train_arguments(
        "metrics", "--storage", "store", "--ray-address", ray_head.address, config=config
    )
    env = {**prefect_server.env, "RAY_AUTH_MODE": "disabled"}
    process = start_pawl(tmp_path, *arguments, env=env)
    targets = ray_head.folder / "ray" / "prom_metrics_service_discovery.json"
    wait_until(targets.exists, what="Ray's list of exporters")
    prometheus = Prometheus(tmp_path, targets)
    try:
        wait_until(
            lambda: prometheus.ask('ray_pawl_verdicts_total{run="metrics"}'),
            400,
            "a verdict in Prometheus",
        )
        wait_until(
            lambda: prometheus.ask('ray_pawl_save_interval_seconds{run="metrics"}'),
            400,
            "an interval",
        )
        # A rate needs two scrapes, and Ray's exporters are late on a busy machine.
        wait_until(lambda: not panels_without_data(prometheus), 60, "data in every panel")
    finally:
        prometheus.close()
        process.kill_everything()
