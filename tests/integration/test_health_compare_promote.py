"""The flows `health`, `compare` and `promote` on a real Prefect server, on versions of a real (small) training."""

import json
import os
import subprocess
import sys
import time
from uuid import UUID

import httpx
import pytest

from ray_workers.loading import open_version
from ray_workers.store.attempts import read_run
from ray_workers.store.opening import open_root
from ray_workers.store.tags import tag_history
from tests.integration.harness import wait_until
from tests.support.factories import MadeUpRun
from tests.support.small_training import patient_process, small_loop

pytestmark = [pytest.mark.prefect, pytest.mark.long]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flows")
    patient_process(folder).attempt(small_loop(), {"epochs": 1})
    url = str(folder / "store")
    judged = MadeUpRun(store=open_root(url, create=False).store, name="run")
    judged.judge(1, 2, 3)
    return url


def start(server, module, flow, **parameters):
    code = (
        "import json, sys\n"
        f"from {module} import {flow}\n"
        f"state = {flow}(**json.loads(sys.argv[1]), return_state=True)\n"
        "print('ENDED', state.name, state.message)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(parameters)],
        env={**os.environ, **server.env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ended(process):
    output, _ = process.communicate(timeout=240)
    (line,) = [line for line in output.splitlines() if line.startswith("ENDED")] or [output]
    return line


def post(server, path, **body):
    answer = httpx.post(f"{server.api_url}/{path}", json=body, timeout=20)
    answer.raise_for_status()
    return answer.json()


def artifact(server, key):
    found = post(server, "artifacts/latest/filter", artifacts={"key": {"any_": [key]}})
    return found[0]["data"]


def events(server, name):
    def look():
        return post(server, "events/filter", filter={"event": {"name": [name]}})["events"]

    return wait_until(look, 60, f"an event {name}")


def test_health_publishes_a_page_and_alerts(prefect_server, url):
    line = ended(start(prefect_server, "flows.health", "health", storage=url, fail=True,
                       objective={"recovery_minutes": 5, "at_risk_minutes": 1e-6}))  # fmt: skip
    assert (
        line == "ENDED Completed ready: the one run can come back"
    )  # it is done, so nothing is at risk
    assert "data:image/svg+xml" in artifact(prefect_server, "pawl-health")
    assert open_root(url, create=False).store.get("registry/versions/run.parquet")
    dead = MadeUpRun(store=open_root(url, create=False).store, name="dead")
    dead.start()
    dead.commit(1)
    dead.end("failed", "disk full")
    line = ended(start(prefect_server, "flows.health", "health", storage=url, fail=True))
    assert line.startswith("ENDED Failed warning: dead: it failed")
    (event,) = events(prefect_server, "pawl.objective.missed")[-1:]
    assert event["resource"]["prefect.resource.id"] == "pawl.run.dead"


def test_compare_publishes_pictures_and_a_file(prefect_server, url, tmp_path):
    page = tmp_path / "page.html"
    losses = {n: open_version(f"run@{n}", url).manifest.metrics["loss"] for n in (1, 2, 3)}
    best, worst = (pick(losses, key=losses.__getitem__) for pick in (min, max))
    line = ended(start(prefect_server, "flows.compare", "compare", versions=[f"run@{best}", "run@best"],
                       storage=url, html_file=str(page), mode="max"))  # fmt: skip
    assert line == "ENDED Completed 2 versions compared"
    assert artifact(prefect_server, "pawl-comparison").count("data:image/svg+xml") >= 3
    assert f"run@{worst}" in page.read_text()


def test_a_version_that_fails_the_gate_is_not_promoted(prefect_server, url):
    gate = {"threshold": 1e-9}
    line = ended(start(prefect_server, "flows.promote", "promote", version="run@1", storage=url,
                       tag="failing", gate=gate))  # fmt: skip
    assert line.startswith("ENDED Failed Not promoted: loss is")
    assert "gate not passed" in artifact(prefect_server, "pawl-promotion")
    assert "failing" not in read_run(open_root(url, create=False).store, "run").tags


@pytest.mark.parametrize("approve", [True, False])
def test_a_person_is_asked_and_the_answer_stands_in_the_log(prefect_server, url, approve):
    tag = f"asked-{approve}"
    process = start(prefect_server, "flows.promote", "promote", version="run@3", storage=url, tag=tag,
                    gate={"metric": None, "approval": True, "approval_minutes": 10})  # fmt: skip
    paused = wait_until(lambda: _paused(prefect_server), 180, "a paused flow run")
    assert tag not in read_run(open_root(url, create=False).store, "run").tags
    answer = {"approve": approve, "who": "ada", "comment": "looks right"}
    post(prefect_server, f"flow_runs/{UUID(paused)}/resume", run_input=answer)
    line = ended(process)
    store = open_root(url, create=False).store
    if approve:
        assert line == f"ENDED Completed run@3 is {tag} now"
        (move,) = [move for move in tag_history(store, "run") if move.name == tag]
        assert (move.version, move.by["approved_by"]) == (3, "ada")
        assert events(prefect_server, "pawl.version.promoted")
    else:
        assert line.startswith("ENDED Cancelled Not promoted: not approved. looks right")
        assert tag not in read_run(store, "run").tags


def test_an_approval_that_nobody_gives_is_a_no_and_no_failure(prefect_server, url):
    gate = {"metric": None, "approval": True, "approval_minutes": 0.1}
    line = ended(start(prefect_server, "flows.promote", "promote", version="run@3", storage=url,
                       tag="nobody", gate=gate))  # fmt: skip
    assert line == "ENDED Cancelled Not promoted: not approved. nobody answered within 0.1 minutes"
    assert "nobody" not in read_run(open_root(url, create=False).store, "run").tags


def _paused(server):
    found = post(server, "flow_runs/filter", flow_runs={"state": {"type": {"any_": ["PAUSED"]}}})
    time.sleep(0.5)
    return found[0]["id"] if found else None
