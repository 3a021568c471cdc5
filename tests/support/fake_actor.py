"""Actors without Ray: `actor.method.remote(…)` answers what a test has put there, through `ray.get` and `ray.wait`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import ray
from ray.exceptions import GetTimeoutError

__all__ = ["PENDING", "FakeActor", "without_ray"]

PENDING = object()
"""As an answer: there is none yet."""


class FakeActor:
    """Args: by method, its answers in turn; the last one stays. An exception is raised, a callable asked."""

    def __init__(self, **answers: list[Any]) -> None:
        self._answers = answers
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> _Method:
        if name.startswith("_"):
            raise AttributeError(name)
        return _Method(self, name)

    def answers(self, name: str, *answers: Any) -> None:
        """From now on."""
        self._answers[name] = list(answers)

    def asked(self, name: str) -> list[tuple[Any, ...]]:
        """Arguments of every call of this method."""
        return [arguments for called, arguments in self.calls if called == name]

    def answer(self, name: str) -> Any:
        left = self._answers.get(name, [None])
        return left.pop(0) if len(left) > 1 else left[0]


class _Method:
    def __init__(self, actor: FakeActor, name: str) -> None:
        self._actor = actor
        self._name = name

    def remote(self, *arguments: Any) -> _Reference:
        self._actor.calls.append((self._name, arguments))
        answer = self._actor.answer(self._name)
        return _Reference(answer(*arguments) if callable(answer) else answer)


class _Reference:
    def __init__(self, answer: Any) -> None:
        self.answer = answer


def without_ray(patch: pytest.MonkeyPatch) -> None:
    def get(reference: _Reference, timeout: float | None = None) -> Any:
        if reference.answer is PENDING:
            assert timeout is not None, "it would wait for ever"
            raise GetTimeoutError("not yet")
        if isinstance(reference.answer, BaseException):
            raise reference.answer
        return reference.answer

    def wait(references: Sequence[_Reference], **_: Any) -> tuple[list[Any], list[Any]]:
        ready = [one for one in references if one.answer is not PENDING]
        return ready, [one for one in references if one.answer is PENDING]

    patch.setattr(ray, "get", get)
    patch.setattr(ray, "wait", wait)
