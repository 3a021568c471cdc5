import types

import pytest
import torch

from ray_workers import device_copy


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
