import functools
import types
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch

from ray_workers import device_copy
from ray_workers.store.errors import InvalidInputError


class FakeRuntime:
    """CUDA's runtime as torch shows it."""

    def __init__(self, *answers):
        self.answers, self.calls = list(answers), []

    def cudaHostRegister(self, *arguments):  # noqa: N802 - CUDA's name
        self.calls.append(("register", *arguments))
        return self.answers.pop(0)

    def cudaHostUnregister(self, address):  # noqa: N802 - CUDA's name
        self.calls.append(("unregister", address))


@pytest.fixture
def runtime(monkeypatch):
    runtime = FakeRuntime(0, 2)
    monkeypatch.setattr(device_copy, "_cuda", types.SimpleNamespace(cudart=lambda: runtime))
    return runtime


def test_memory_is_pinned_for_all_devices_and_unpinned_by_its_address(runtime):
    assert device_copy.pin(4096, 100)
    device_copy.unpin(4096)
    assert runtime.calls == [("register", 4096, 100, 1), ("unregister", 4096)]


def test_an_error_that_cuda_remembers_is_taken_from_it(runtime, monkeypatch):
    asked = []

    def ones(*_, device):
        asked.append(device)
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "ones", ones)
    assert device_copy.pin(4096, 100)
    assert asked == []
    assert not device_copy.pin(8192, 100)
    assert asked == ["cuda"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_nothing_is_pinned():
    assert not device_copy.pin(4096, 100)


def test_what_lies_on_a_device():
    assert not device_copy.on_device(torch.zeros(1))
    assert device_copy.on_device(torch.zeros(1, device="meta"))


@pytest.mark.parametrize("device", ["mps:0", "xpu:1"])
def test_devices_that_no_copy_is_made_from_are_refused_by_name(device):
    tensor = types.SimpleNamespace(device=torch.device(device))
    with pytest.raises(InvalidInputError, match=f"w lies on {device}"):
        device_copy.check_device("w", cast("torch.Tensor", tensor))
    device_copy.check_device("w", torch.zeros(1))


# --- several devices ------------------------------------------------------------------------------


class FakeStream:
    """Work is done when somebody waits for it, and not before."""

    def __init__(self, device):
        self.device, self.work, self.done = device, [], 0

    def run(self, until):
        for step in self.work[self.done : until]:
            step()
        self.done = max(self.done, until)

    def wait_stream(self, other):
        self.work.append(functools.partial(other.run, len(other.work)))

    def wait_event(self, event):
        self.work.append(event.synchronize)


class FakeCuda:
    """Each device has its own streams; what is enqueued goes to the current one of the device that it is of."""

    def __init__(self):
        self.current: dict[torch.device, FakeStream] = {}
        self.device = torch.device("cuda:0")
        self.Stream = FakeStream

    def current_stream(self, device=None):
        return self.current.setdefault(device or self.device, FakeStream(device or self.device))

    @contextmanager
    def stream(self, stream):
        before = self.device, self.current_stream(stream.device)
        self.device, self.current[stream.device] = stream.device, stream
        yield
        self.device, self.current[stream.device] = before

    def Event(self):  # noqa: N802 - CUDA's name
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, cuda):
        self.cuda = cuda

    def record(self):
        self.stream = self.cuda.current_stream()
        self.until = len(self.stream.work)

    def synchronize(self):
        self.stream.run(self.until)


class Source:
    def __init__(self, device):
        self.device = torch.device(device)

    def record_stream(self, stream):
        assert stream.device == self.device


class Target:
    def __init__(self, cuda):
        self.cuda, self.arrived = cuda, False

    def copy_(self, source, *, non_blocking):
        assert non_blocking
        self.cuda.current_stream(source.device).work.append(self._arrive)

    def _arrive(self):
        self.arrived = True


@pytest.fixture
def cuda(monkeypatch):
    cuda = FakeCuda()
    monkeypatch.setattr(device_copy, "_cuda", cuda)
    monkeypatch.setattr(torch.cuda, "stream", cuda.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", cuda.current_stream)
    return cuda


def pairs(cuda, *devices) -> Any:
    return [(Source(device), Target(cuda)) for device in devices]


@pytest.mark.parametrize(
    ("at_once", "later"),
    [
        (["cuda:0"], ["cuda:0", "cuda:1"]),
        (["cuda:1", "cuda:0"], ["cuda:1"]),
        ([], ["cuda:1", "cuda:0"]),
        (["cuda:1", "cuda:0"], []),
    ],
)
def test_what_several_devices_hold_has_arrived_when_the_wait_is_over(cuda, at_once, later):
    first, second = pairs(cuda, *at_once), pairs(cuda, *later)
    copies = device_copy.DeviceCopies(first, second)
    assert not any(target.arrived for _, target in (*first, *second))
    copies.wait()
    assert all(target.arrived for _, target in (*first, *second))


def test_each_devices_next_step_runs_after_the_copies_from_it(cuda):
    later = pairs(cuda, "cuda:0", "cuda:1")
    copies = device_copy.DeviceCopies([], later)
    for source, target in later:
        training = cuda.current_stream(source.device)
        training.run(len(training.work))
        assert not target.arrived, "copied in the order of training's own stream"
    copies.hold_back_step()
    for source, target in later:
        training = cuda.current_stream(source.device)
        training.run(len(training.work))
        assert target.arrived
