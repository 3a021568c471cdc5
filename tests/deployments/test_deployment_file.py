from __future__ import annotations

import json
from pathlib import Path

import pytest

from deployments.automations import TAG
from deployments.deployment_file import problems_in, read_deployments
from deployments.own_prefect import HEARTBEAT_S
from ray_workers.store.errors import InvalidInputError

FLOWS = Path(__file__).parents[2] / "flows"


@pytest.fixture
def file():
    # by way of JSON, so that what YAML anchors share is no longer shared
    return json.loads(json.dumps(read_deployments()))


def test_the_deployments_that_are_shipped_have_no_mistakes(file):
    assert problems_in(file) == []


def test_every_flow_is_deployed_once_and_none_deletes_unasked(file):
    flows = {path.stem for path in FLOWS.glob("*.py")} - {"__init__"}
    assert sorted(each["name"] for each in file["deployments"]) == sorted(flows)
    (maintain,) = [each for each in file["deployments"] if each["name"] == "maintain"]
    assert maintain["parameters"]["dry_run"] is True


def test_every_deployment_carries_the_tag_that_the_automations_look_for(file):
    for each in file["deployments"]:
        assert TAG in each["tags"], each["name"]


def test_every_deployment_beats_fast_enough_for_the_automations(file):
    for each in file["deployments"]:
        beat = each["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]
        assert int(beat) == HEARTBEAT_S


@pytest.mark.parametrize(
    ("place", "key", "said"),
    [
        ((), "deploymets", "the file has the unknown key 'deploymets'; 'deployments' is meant?"),
        (("deployments", 0), "descriptn", "deployment 'train' has the unknown key 'descriptn'"),
        (("deployments", 0), "concurency_limit", "'concurrency_limit' is meant?"),
        (("deployments", 0, "work_pool"), "job_variable", "work_pool of deployment 'train'"),
        (("deployments", 0, "work_pool", "job_variables"), "workingdir", "'working_dir' is meant?"),
        (("deployments", 1, "concurrency_limit"), "colision_strategy", "'collision_strategy' is meant"),
        (("deployments", 0, "parameters"), "entry_point", "'entrypoint' is meant?"),
    ],
)  # fmt: skip
def test_a_misspelled_key_is_found_wherever_it_is(file, place, key, said):
    target = file
    for step in place:
        target = target[step]
    target[key] = 1
    found = problems_in(file)
    assert len(found) == 1
    assert said in found[0]


def test_misspelled_values_and_schedules_are_found(file):
    train = file["deployments"][0]
    train["concurrency_limit"] = {"limit": 4, "collision_strategy": "CANCEL"}
    train["schedules"] = [{"crn": "0 3 * * *", "parameters": {"rum": "x"}}]
    assert problems_in(file) == [
        "collision_strategy of deployment 'train' is none of ['CANCEL_NEW', 'ENQUEUE']",
        "a schedule of deployment 'train' has the unknown key 'crn'; 'cron' is meant?",
        "a schedule of deployment 'train' has no slug, by which it is kept apart from the UI's",
        "parameters of a schedule of deployment 'train' has the unknown key 'rum'; 'run' is meant?",
    ]


def test_a_flow_that_is_not_there_and_a_second_of_the_same_name_are_found(file):
    train = file["deployments"][0]
    file["deployments"].append({**train, "entrypoint": "flows.no_such.train"})
    found = problems_in(file)
    assert any("cannot be loaded" in problem for problem in found)
    assert "two deployments are named 'train'" in found


def test_a_file_that_is_no_yaml_mapping_is_refused(tmp_path):
    path = tmp_path / "prefect.yaml"
    for text in ("- a\n", "a: [\n"):
        path.write_text(text)
        with pytest.raises(InvalidInputError, match="deployment file"):
            read_deployments(path)
