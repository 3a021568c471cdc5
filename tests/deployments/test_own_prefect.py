import os

import pytest

from deployments.automations import MIN_SILENCE_S, ComeBack
from deployments.own_prefect import HEARTBEAT_S, prepare_prefect

BEATS = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"


@pytest.fixture(autouse=True)
def _an_environment_to_spoil(monkeypatch, tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    monkeypatch.setattr(os, "environ", kept | {"PREFECT_HOME": str(tmp_path / "home")})


def test_a_run_of_the_command_line_beats_often_enough_not_to_be_called_dead():
    prepare_prefect()
    assert os.environ[BEATS] == str(HEARTBEAT_S)
    assert 3 * HEARTBEAT_S <= MIN_SILENCE_S <= ComeBack().lost_after_seconds


def test_what_the_user_has_set_stays():
    os.environ[BEATS] = "45"
    prepare_prefect()
    assert os.environ[BEATS] == "45"


def test_a_home_that_is_named_is_made(tmp_path):
    prepare_prefect()
    assert (tmp_path / "home").is_dir()
