from __future__ import annotations

from typing import Any

import pytest

from deployments import setting_up
from deployments.setting_up import BlockWishes, _pieces, _remember, _rules
from deployments.setup_deployments import DeploymentSet

NOTHING = {"max_runs": None, "backoff": None, "lost_after": None, "notify": None, "project": None}
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
