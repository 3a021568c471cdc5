"""Whether a save that is still open can be waited for, as a worker's node agent answers or does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, GetTimeoutError

from ray_workers.ray_pipeline import RayPipeline


@pytest.mark.parametrize(
    ("answer", "at_work"),
    [
        (True, True),
        (False, False),  # the checkpoint actor stands still
        (GetTimeoutError("it stands still"), False),
        (ActorDiedError(), True),  # it is being restarted, and asked again
    ],
)
def test_what_stands_still_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, answer: object, *, at_work: bool
) -> None:
    def get(ref: str, timeout: float) -> object:
        assert ref == "asked"
        assert timeout > 0
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(ray, "get", get)
    agent: Any = SimpleNamespace(at_work=SimpleNamespace(remote=lambda: "asked"))
    assert RayPipeline(agent, rank=0).at_work() is at_work
