"""A saver over a pipeline that answers when it is told to."""

import time
from concurrent.futures import Future
from typing import Any

import pytest
import torch

from ray_workers import saver as saver_module
from ray_workers.messages import DriverNews, VersionOutcome
from ray_workers.pipeline import _FuturePending
from ray_workers.rank_content import RankContent
from ray_workers.saver import Saver
from ray_workers.staging import StagingRing
from ray_workers.staging_files import StagingFolder
from ray_workers.store.manifest import Progress

SMALL, LARGE = 1000, 1_000_000  # items; the second is far beyond the first one's headroom


class HeldPipeline:
    """Real staging files; a save stays open until `release`."""

    def __init__(self, folder):
        self.folder = StagingFolder(folder=folder, run_id="a" * 32, fence=1)
        self.open = {}
        self.declined = []
        self.allocated = []

    def allocate(self, rank, *, count, size):
        self.allocated.append(size)
        return self.folder.allocate(rank, count=count, size=size)

    def submit(self, staged):
        future = self.open[staged.progress.step] = Future[Any]()
        return _FuturePending(future)

    def release(self, step):
        self.open[step].set_result(VersionOutcome(step=step, number=step))

    def decline(self, save, _rank, reason):
        self.declined.append((save, reason))

    def stop_request(self):
        return None

    def news(self):
        return DriverNews()

    def close(self):
        self.folder.release()


@pytest.fixture
def pipeline(tmp_path):
    return HeldPipeline(tmp_path)


@pytest.fixture
def saver(pipeline, monkeypatch):
    monkeypatch.setattr(saver_module, "_BUFFER_PATIENCE_S", 0.01)
    saver = Saver(pipeline, rank=0, world_size=1, buffers=2)
    yield saver
    saver.close()


def stage(saver, step, items):
    tensors = {"shared/model/w": torch.ones(items)}
    progress = Progress(step=step, epoch=0, finished=False)
    saver.stage(RankContent(tensors=tensors), progress)
    for flight in saver._flights:
        assert flight.handed_over.wait(60)


def test_a_state_that_outgrew_its_buffers_is_declined_while_they_cannot_be_replaced(
    saver, pipeline
):
    stage(saver, 1, SMALL)
    stage(saver, 2, LARGE)  # the other buffer is free, and too small
    assert [save.step for save, _ in pipeline.declined] == [2]
    assert "still being read" in pipeline.declined[0][1]
    pipeline.release(1)
    stage(saver, 3, LARGE)
    assert list(pipeline.open) == [1, 3]
    assert [outcome.step for outcome in saver.collect()] == [1]
    assert pipeline.allocated[1] > 4 * LARGE
    pipeline.release(3)


@pytest.mark.parametrize("away", [True, False])
def test_buffers_are_pinned_when_a_device_copies_into_them(saver, pipeline, monkeypatch, away):
    rings = []

    def ring(paths, *, pinned):
        rings.append(pinned)
        return StagingRing(paths)

    monkeypatch.setattr(saver_module, "StagingRing", ring)
    monkeypatch.setattr(saver_module, "on_device", lambda _: away)
    stage(saver, 1, SMALL)
    stage(saver, 2, SMALL)
    assert rings == [away]


def test_whatever_goes_wrong_when_a_save_is_handed_over_drops_that_save_alone(
    saver, pipeline, monkeypatch
):
    def full(_staged):
        raise RuntimeError("no room for the message")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "submit", full)
        stage(saver, 1, SMALL)
        assert saver.wait(1) == []
    assert not saver.in_flight
    assert [(save.step, reason) for save, reason in pipeline.declined] == [
        (1, "RuntimeError: no room for the message")
    ]
    stage(saver, 2, SMALL)
    stage(saver, 3, SMALL)
    assert list(pipeline.open) == [2, 3], "its buffer was not free"
    pipeline.release(2)
    pipeline.release(3)


def test_a_copy_that_could_not_be_begun_is_not_waited_for(saver, monkeypatch):
    def broken(*_args, **_options):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(saver_module, "StateCopy", broken)
    with pytest.raises(RuntimeError, match="CUDA error"):
        stage(saver, 1, SMALL)
    monkeypatch.setattr(saver_module, "_BUFFER_PATIENCE_S", 35.0)
    begun = time.monotonic()
    saver.hand_over_all()
    assert time.monotonic() - begun < 30
    assert not saver.in_flight
