from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

from ray_workers.policies.hang import RankPulse
from ray_workers.pulse_board import PulseBoard
from ray_workers.stacks import all_stacks, process_state


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def pulse(rank: int, pid: int = 1, silent_s: float = 1.0) -> RankPulse:
    return RankPulse(
        rank=rank, pid=pid, step=5, silent_s=silent_s, gaps=9, median_s=1.0, longest_s=2.0
    )


def test_a_rank_is_known_from_its_first_beat_until_it_leaves() -> None:
    board = PulseBoard()
    board.beat(pulse(1))
    board.beat(pulse(0))
    assert board.pulses() == [pulse(0), pulse(1)]
    board.leave(0)
    assert board.pulses() == [pulse(1)]


def test_a_process_that_gives_no_sign_is_silent_for_that_time_too() -> None:
    clock = Clock()
    board = PulseBoard(clock)
    board.beat(pulse(0))
    clock.now = 5.0
    assert board.pulses()[0].silent_s == 1.0  # its next beat is not late
    clock.now = 500.0
    assert board.pulses()[0].silent_s == 501.0


def test_stacks_are_asked_for_once_of_each_rank_that_was_heard() -> None:
    board = PulseBoard()
    assert not board.beat(pulse(0))
    board.put_stacks(0, "nobody asked")
    assert board.stacks() == {0: None}
    board.want_stacks()
    assert board.beat(pulse(0))
    assert board.beat(pulse(1))
    board.put_stacks(0, "in loss.backward")
    assert not board.beat(pulse(0))
    assert board.stacks() == {0: "in loss.backward", 1: None}


def test_only_the_ranks_that_hang_are_killed_even_stopped_ones() -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    hangs, lives = subprocess.Popen(sleep), subprocess.Popen(sleep)
    try:
        board = PulseBoard()
        board.beat(pulse(0, hangs.pid))
        board.beat(pulse(1, lives.pid))
        hangs.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 60
        while board.states()[0] != "stopped" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert board.states()[0] == "stopped"
        board.kill((0, 7))
        assert hangs.wait(60) == -signal.SIGKILL
        assert lives.poll() is None
        assert process_state(hangs.pid) == "gone"
        board.kill((0,))  # it is gone already
    finally:
        for process in (hangs, lives):
            process.kill()
            process.wait(60)


def test_the_stacks_of_all_threads_are_told_ours_last() -> None:
    release = threading.Event()

    def waits_for_the_others() -> None:
        release.wait(60)

    threads = [
        threading.Thread(target=waits_for_the_others, name=name) for name in ("pawl-x", "trains")
    ]
    for thread in threads:
        thread.start()
    try:
        text = all_stacks()
    finally:
        release.set()
        for thread in threads:
            thread.join()
    assert text.count("in waits_for_the_others") == 2
    assert text.index("thread trains:") < text.index("thread pawl-x:")
    assert "thread MainThread:" in text
