import pytest

from ray_workers.scrubbing import Pace, oldest_first, scrub_run
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.log import RunLog
from tests.support.factories import MadeUpRun, flip_byte, folder_store


class Clock:
    def __init__(self):
        self.now, self.slept = 0.0, []

    def sleep(self, seconds):
        self.now += seconds
        self.slept.append(seconds)

    def __call__(self):
        return self.now


@pytest.fixture
def run(tmp_path):
    made = MadeUpRun(store=folder_store(tmp_path))
    made.start()
    for step in (10, 20, 30):
        made.commit(step)
    return made


def scrubbed(run, clock=None):
    clock = clock or Clock()
    log = RunLog(run.store, run.name, by={})
    return scrub_run(run.store, log, Pace(1e3, sleep=clock.sleep, clock=clock))


def test_every_verdict_is_recorded_and_what_rotted_is_quarantined(run, tmp_path):
    flip_byte(tmp_path, run.shard_keys(2)[0])
    assert [(s.version, s.passed) for s in scrubbed(run)] == [(1, True), (2, False), (3, True)]
    assert [run.version(n).rung for n in (1, 2, 3)] == ["verified", "quarantined", "verified"]
    before = run.log.refresh().slot
    scrubbed(run)
    assert run.log.refresh().slot == before + 3


def test_the_one_looked_at_longest_ago_comes_first(run):
    run.judge(1, check="verified")
    run.judge(3, check="verified")
    assert [v.number for v in oldest_first(run.log.refresh())] == [2, 1, 3]
    scrubbed(run)
    assert [v.number for v in oldest_first(run.log.refresh())] == [2, 1, 3]
    run.judge(2, check="verified")
    assert [v.number for v in oldest_first(run.log.refresh())] == [1, 3, 2]


def test_the_rate_is_bounded(run):
    clock = Clock()
    size = sum(s.bytes for s in scrubbed(run, clock))
    assert clock.now == pytest.approx(size / 1e3)


def test_a_slow_store_is_not_slowed_further():
    clock = Clock()
    pace = Pace(10, sleep=clock.sleep, clock=clock)
    clock.now = 100.0
    pace.read(500)
    assert clock.slept == []
    pace.read(600)
    assert clock.slept == [10.0]


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_of_nothing_is_refused(rate):
    with pytest.raises(InvalidInputError):
        Pace(rate)
