from __future__ import annotations

from typing import Any

import pytest
import yaml

from deployments import setting_up
from deployments.automations import ComeBack
from deployments.deployment_file import DEPLOYMENTS
from deployments.setting_up import BlockWishes, _pieces, _remember, _rules
from deployments.setup_deployments import DeploymentSet
from deployments.setup_pieces import AutomationSet, BlockDocument
from ray_workers.store.errors import InvalidInputError

NOTHING = dict.fromkeys(("max_runs", "backoff", "lost_after", "stuck_after", "notify", "project"))
CLIENT: Any = None
"""Asked for nothing here."""


@pytest.fixture
def variables(monkeypatch) -> dict[str, Any]:
    held: dict[str, Any] = {}

    class Held:
        get = staticmethod(held.get)

        @staticmethod
        def set(name: str, value: Any, *, overwrite: bool) -> None:
            assert overwrite
            held[name] = value

    monkeypatch.setattr(setting_up, "Variable", Held)
    return held


def project_of(told: dict[str, Any]) -> str | None:
    pieces = _pieces(CLIENT, told, _rules(told), BlockWishes())
    (deployments,) = [piece for piece in pieces if isinstance(piece, DeploymentSet)]
    return deployments.project


def test_every_option_is_remembered_the_project_too(variables):
    _remember(CLIENT, {**NOTHING, "project": "/app", "max_runs": 3, "backoff": "20,40"}, keep=True)
    told = _remember(CLIENT, NOTHING, keep=True)
    assert told == {"project": "/app", "max_runs": 3, "backoff_seconds": [20, 40]}
    assert project_of(told) == "/app"
    assert project_of(_remember(CLIENT, {**NOTHING, "project": "/srv"}, keep=True)) == "/srv"
    assert _rules(told).backoff_seconds == (20, 40)


def test_a_check_remembers_nothing(variables):
    assert project_of(_remember(CLIENT, {**NOTHING, "project": "/app"}, keep=False)) == "/app"
    assert variables == {}


def test_how_long_a_pod_may_take_is_remembered_and_reaches_the_automations(variables):
    told = _remember(CLIENT, {**NOTHING, "stuck_after": 7200}, keep=True)
    pieces = _pieces(CLIENT, told, _rules(told), BlockWishes())
    (automations,) = [piece for piece in pieces if isinstance(piece, AutomationSet)]
    stuck = [each for each in automations.wanted if "stuck in Pending" in each.name]
    assert [each.trigger.within.total_seconds() for each in stuck] == [7200]  # type: ignore[union-attr]
    with pytest.raises(InvalidInputError, match="stuck after 60 seconds at the least"):
        _remember(CLIENT, {**NOTHING, "stuck_after": 5}, keep=True)


@pytest.mark.parametrize("if_missing", [True, False])
def test_a_block_that_is_there_is_written_anew_only_without_if_missing(if_missing):
    wishes = BlockWishes(storage="s3://pawl", cluster="http://ray:8265", if_missing=if_missing)
    pieces = _pieces(CLIENT, {}, ComeBack(), wishes)
    blocks = [piece for piece in pieces if isinstance(piece, BlockDocument)]
    assert [block.overwrite for block in blocks] == [not if_missing] * 2


def test_compose_leaves_blocks_that_a_user_has_changed():
    compose = yaml.safe_load((DEPLOYMENTS.parent / "compose.yaml").read_text())
    assert "--if-missing" in compose["services"]["setup"]["command"]
