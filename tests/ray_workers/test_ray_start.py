"""A machine too busy for Ray's own time limit costs a second start, not the attempt; signals to our group miss Ray's daemons."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import services

from ray_workers.config import Scaling
from ray_workers.ray_cluster import daemons_out_of_reach, ray_cluster
from ray_workers.store.errors import ClusterUnavailableError, InvalidInputError

ORDINARY = services.ConsolePopen
SLOW = Exception("The current node timed out during startup. This could happen because …")


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Let `ray.init` end in these ways, one after the other; what was called of Ray."""

    def play(*endings: Exception | None) -> list[str]:
        calls: list[str] = []
        left = list(endings)

        def init(**settings: Any) -> None:
            assert settings["address"] == "local"
            assert services.ConsolePopen is not ORDINARY  # out of reach (below)
            calls.append("init")
            if (ending := left.pop(0)) is not None:
                raise ending

        monkeypatch.setattr(ray, "init", init)
        monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        return calls

    return play


def test_a_slow_start_is_tried_again(starts: Callable[..., list[str]], tmp_path: Path) -> None:
    calls = starts(SLOW, None)
    with ray_cluster(Scaling(), tmp_path):
        assert calls == ["init", "shutdown", "init"]


@pytest.mark.parametrize(
    ("cause", "expected", "sentence"),
    [
        ("Timed out: GCS", ClusterUnavailableError, "No Ray cluster answers at 'head:6379'"),
        ("AuthenticationError: invalid", InvalidInputError, "refused this process's token"),
    ],
)
def test_a_cluster_to_join_that_is_away_is_retryable_and_a_wrong_token_is_not(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cause: str,
    expected: type[Exception],
    sentence: str,
) -> None:
    def init(**_: Any) -> None:
        raise ConnectionError("Failed to connect") from RuntimeError(cause)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with (
        pytest.raises(expected, match=sentence),
        ray_cluster(Scaling(ray_address="head:6379"), tmp_path),
    ):
        pass


def test_one_that_never_comes_up_is_retryable(
    starts: Callable[..., list[str]], tmp_path: Path
) -> None:
    starts(SLOW, SLOW, SLOW)
    with (
        pytest.raises(ClusterUnavailableError, match="did not come up"),
        ray_cluster(Scaling(), tmp_path),
    ):
        pass


def test_another_error_is_no_matter_of_time(
    starts: Callable[..., list[str]], tmp_path: Path
) -> None:
    calls = starts(ValueError("no such thing"))
    with pytest.raises(ValueError, match="no such thing"), ray_cluster(Scaling(), tmp_path):
        pass
    assert calls == ["init"]


@pytest.fixture
def daemon() -> Iterator[Callable[[], int]]:
    """Starts a process as Ray starts its daemons; its process group."""
    started = []

    def start() -> int:
        info = services.start_ray_process(["sleep", "60"], "log_monitor", fate_share=True)
        started.append(info.process)
        return os.getpgid(info.process.pid)

    yield start
    for process in started:
        process.kill()
        process.wait(10)


def test_a_signal_to_the_process_group_does_not_reach_rays_daemons(
    daemon: Callable[[], int],
) -> None:
    with daemons_out_of_reach():
        assert daemon() != os.getpgid(0)
    assert daemon() == os.getpgid(0)  # else this test shows nothing
