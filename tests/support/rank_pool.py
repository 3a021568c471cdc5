"""Two real processes with a gloo group between them, started once and used for many tests."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["RankPool"]

_ANSWER_SECONDS = 60


class RankPool:
    """`run` calls one function on every rank and returns what each rank returned.

    The function must be importable by name, and arguments and results picklable (use lists and numpy arrays, not tensors).
    A rank that fails is raised here, and the pool is started afresh for the next test.
    """

    def __init__(self, folder: Path, world_size: int = 2) -> None:
        self._folder = folder
        self._world_size = world_size
        self._starts = 0
        self._workers: list[tuple[Any, Connection]] = []

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        if not self._workers:
            self._start()
        for _, pipe in self._workers:
            pipe.send((function, args))
        answers = [_answer(pipe) for _, pipe in self._workers]
        failures = [str(value) for ok, value in answers if not ok]
        if failures:
            self.close()
            raise AssertionError("\n".join(failures))
        return [value for _, value in answers]

    def close(self) -> None:
        for process, pipe in self._workers:
            pipe.close()
            process.terminate()
            process.join(10)
        self._workers = []

    def _start(self) -> None:
        self._starts += 1
        meeting = self._folder / f"meeting-{self._starts}"
        spawn = multiprocessing.get_context("spawn")
        for rank in range(self._world_size):
            here, there = spawn.Pipe()
            process = spawn.Process(
                target=_serve, args=(rank, self._world_size, str(meeting), there), daemon=True
            )
            process.start()
            there.close()
            self._workers.append((process, here))


def _answer(pipe: Connection) -> tuple[bool, Any]:
    if not pipe.poll(_ANSWER_SECONDS):
        return False, f"no answer within {_ANSWER_SECONDS} s"
    try:
        answer: tuple[bool, Any] = pipe.recv()
    except EOFError:
        return False, "the process died"
    return answer


def _serve(rank: int, world_size: int, meeting: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=20),
    )
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            break
        try:
            pipe.send((True, function(*args)))
        except Exception:  # noqa: BLE001 - the outermost frame of a process; the parent raises it
            pipe.send((False, f"rank {rank}: {traceback.format_exc()}"))
    dist.destroy_process_group()
