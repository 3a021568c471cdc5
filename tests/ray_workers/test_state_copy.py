import queue

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from ray_workers import state_copy
from ray_workers.device_copy import DeviceCopies
from ray_workers.host_copy import copy_pool
from ray_workers.shard_io import plan_shard, write_shard
from ray_workers.state_copy import StateCopy
from ray_workers.store.errors import InternalError, InvalidInputError
from tests.support.gated_copy import hold_copies_back

LARGE = 50_000  # items: more than is copied at once as a matter of course


@pytest.fixture
def pool():
    with copy_pool() as pool:
        yield pool


def state():
    """Every way a tensor can lie in memory; the large plain ones can be copied beside training."""
    generator = torch.Generator().manual_seed(1)
    large = torch.randn(LARGE, generator=generator)
    return {
        "shared/model/large": large,
        "shared/model/bf16": large.bfloat16(),
        "shared/model/small": torch.arange(7),
        "shared/model/scalar": torch.tensor(3.5),
        "shared/model/empty": torch.empty(0, 4),
        "shared/model/turned": torch.randn(300, 400, generator=generator).t(),
        "shared/model/every_other": torch.arange(2 * LARGE)[::2],
        "shared/model/conjugate": torch.randn(
            LARGE, generator=generator, dtype=torch.complex64
        ).conj(),
        "shared/model/negative": torch.randn(LARGE, dtype=torch.complex64, generator=generator)
        .conj()
        .imag,
        "shared/model/offset": large[5:],
    }


def expected(plan, tensors):
    buffer = memoryview(bytearray(plan.total))
    write_shard(plan, tensors, buffer)
    return bytes(buffer)


def begin(tensors, pool, *, steady=None):
    plan = plan_shard(tensors, rank=0)
    memory = memoryview(bytearray(plan.total))
    settled: queue.SimpleQueue[tuple[str, ...]] = queue.SimpleQueue()
    copy = StateCopy(
        plan, tensors, memory, steady=frozenset(tensors) if steady is None else steady, pool=pool,
        settled=settled.put,
    )  # fmt: skip
    return copy, memory, settled, expected(plan, tensors)


@pytest.mark.parametrize("steady", [None, frozenset()])
def test_the_copy_is_what_a_plain_copy_is(pool, steady):
    copy, memory, settled, wanted = begin(state(), pool, steady=steady)
    assert settled.get(timeout=60) == ()
    copy.before_step()
    assert bytes(memory) == wanted


def test_everything_changed_after_the_join_leaves_the_copy_unharmed(pool, monkeypatch):
    hold_copies_back(monkeypatch)
    tensors = state()
    copy, memory, settled, wanted = begin(tensors, pool)
    copy.before_step()
    for tensor in tensors.values():
        tensor.detach().zero_()
    assert settled.get(timeout=60) == ()
    assert bytes(memory) == wanted


def test_what_is_not_steady_may_change_at_once(pool, monkeypatch):
    hold_copies_back(monkeypatch)
    tensors = state()
    steady = frozenset({"shared/model/bf16"})
    copy, memory, settled, wanted = begin(tensors, pool, steady=steady)
    for path in tensors.keys() - steady:
        tensors[path].zero_()
    copy.before_step()
    assert settled.get(timeout=60) == ()
    assert bytes(memory) == wanted


def test_a_steady_tensor_that_changes_meanwhile_voids_the_copy(pool, monkeypatch):
    hold_copies_back(monkeypatch)
    tensors = state()
    copy, _, settled, _ = begin(tensors, pool)
    tensors["shared/model/large"].view(-1)[17] = 0  # through a view: it has the same count
    copy.before_step()
    # Two names of one memory, and both are told.
    assert set(settled.get(timeout=60)) == {"shared/model/large", "shared/model/offset"}


@pytest.fixture
def sharded(tmp_path):
    """An optimizer's DTensor, as FSDP2 makes one, in a world of one rank; and how it lies in a state dict."""
    store = f"file://{tmp_path}/store"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        live = torch.nn.Parameter(distribute_tensor(torch.randn(LARGE), mesh, [Shard(0)]))
        with torch.no_grad():
            yield live, {"shared/model/w": live.detach()}
    finally:
        dist.destroy_process_group()


CHANGES = {
    "itself": lambda live, _: live.clamp_(-0.01, 0.01),
    "written over": lambda live, _: live.copy_(live + 1),
    "a view": lambda live, _: live.view(-1).mul_(2),
    "in the state dict": lambda _, held: held.mul_(2),
    "the local part of the state dict": lambda _, held: held.to_local().mul_(2),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_sharded_tensor_that_changes_meanwhile_voids_the_copy(pool, monkeypatch, sharded, change):
    hold_copies_back(monkeypatch)
    live, tensors = sharded
    copy, _, settled, _ = begin(tensors, pool)
    change(live, tensors["shared/model/w"])
    copy.before_step()
    assert settled.get(timeout=60) == ("shared/model/w",)


def test_a_sharded_tensor_that_training_only_reads_is_sound(pool, monkeypatch, sharded):
    hold_copies_back(monkeypatch)
    live, tensors = sharded
    copy, memory, settled, wanted = begin(tensors, pool)
    with torch.enable_grad():
        (live * 2).sum().backward()
    copy.before_step()
    live.add_(1)
    assert settled.get(timeout=60) == ()
    assert bytes(memory) == wanted


def test_a_change_after_the_copy_is_whole_is_no_change(pool):
    tensors = state()
    copy, memory, settled, wanted = begin(tensors, pool)
    assert settled.get(timeout=60) == ()
    tensors["shared/model/large"].zero_()
    copy.before_step()
    assert bytes(memory) == wanted


@pytest.mark.parametrize("swap", ["data", "resize"])
def test_a_parameter_swapped_or_resized_meanwhile(pool, monkeypatch, swap):
    hold_copies_back(monkeypatch)
    parameter = torch.nn.Parameter(torch.randn(LARGE))
    tensors = {"shared/model/w": parameter.detach()}
    copy, memory, settled, wanted = begin(tensors, pool)
    if swap == "data":
        parameter.data = torch.zeros(3)
    else:
        torch.utils.swap_tensors(parameter, torch.nn.Parameter(torch.zeros(5)))
    del tensors
    copy.before_step()
    assert settled.get(timeout=60) == ()
    assert bytes(memory) == wanted


def test_inference_tensors_count_no_changes_and_are_copied_at_once(pool, monkeypatch):
    hold_copies_back(monkeypatch)
    with torch.inference_mode():
        tensors = {"shared/model/w": torch.randn(LARGE)}
        copy, memory, settled, wanted = begin(tensors, pool)
        tensors["shared/model/w"].zero_()
    copy.before_step()
    assert settled.get(timeout=60) == ()
    assert bytes(memory) == wanted


def test_memory_that_does_not_fit_is_refused(pool):
    tensors = {"shared/model/w": torch.zeros(4)}
    plan = plan_shard(tensors, rank=0)
    for memory in (memoryview(bytearray(plan.total - 1)), memoryview(bytes(plan.total))):
        with pytest.raises(InternalError, match="writable"):
            StateCopy(plan, tensors, memory, steady=frozenset(), pool=pool, settled=print)


def test_tensors_that_are_not_those_of_the_plan_are_refused(pool):
    plan = plan_shard({"shared/model/w": torch.zeros(4)}, rank=0)
    for other in (torch.zeros(4, dtype=torch.int32), torch.zeros(2, 2)):
        with pytest.raises(InternalError, match="changed since"):
            StateCopy(
                plan, {"shared/model/w": other}, memoryview(bytearray(plan.total)), steady=frozenset(), pool=pool,
                settled=print,
            )  # fmt: skip


class FakeCopies(DeviceCopies):
    """A device whose copies arrive when told to; what the processor calls, in order."""

    def __init__(self, at_once, later):
        self.calls = calls = []
        FakeCopies.last = self
        self.arrived: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.at_once, self.later = at_once, later
        calls.append("begun")

    def hold_back_step(self):
        self.calls.append("step held back")

    def wait(self):
        self.arrived.get(timeout=60)
        for source, target in (*self.at_once, *self.later):
            target.copy_(source)
        self.calls.append("arrived")

    last: "FakeCopies"


class OnDevice(torch.Tensor):
    """A tensor that says it lies on a device."""

    device = torch.device("cuda:0")


def test_copies_from_a_device_hold_its_queue_back_and_not_the_processor(pool, monkeypatch):
    monkeypatch.setattr(state_copy, "DeviceCopies", FakeCopies)
    monkeypatch.setattr(state_copy, "local_part", lambda tensor: tensor.as_subclass(OnDevice))
    tensors = {"shared/model/w": torch.randn(LARGE), "shared/model/buffer": torch.randn(3)}
    copy, memory, settled, wanted = begin(tensors, pool, steady=frozenset({"shared/model/w"}))
    copy.before_step()  # returns although nothing has arrived
    assert FakeCopies.last.calls == ["begun", "step held back"]
    assert settled.empty()
    tensors["shared/model/w"].add_(0)  # the step: it is behind the copy on the device
    FakeCopies.last.arrived.put(None)
    assert settled.get(timeout=60) == ()
    assert bytes(memory) == wanted
    assert [len(FakeCopies.last.at_once), len(FakeCopies.last.later)] == [1, 1]


def test_a_change_on_a_device_before_the_step_is_seen(pool, monkeypatch):
    monkeypatch.setattr(state_copy, "DeviceCopies", FakeCopies)
    monkeypatch.setattr(state_copy, "local_part", lambda tensor: tensor.as_subclass(OnDevice))
    tensors = {"shared/model/w": torch.randn(LARGE)}
    copy, _, settled, _ = begin(tensors, pool)
    tensors["shared/model/w"].mul_(2)
    copy.before_step()
    FakeCopies.last.arrived.put(None)
    assert settled.get(timeout=60) == ("shared/model/w",)


class Elsewhere(torch.Tensor):
    """A tensor that says it lies on another accelerator."""

    device = torch.device("xpu:0")


def test_a_tensor_that_is_of_no_model_is_refused_on_another_accelerator(pool, monkeypatch):
    monkeypatch.setattr(state_copy, "local_part", lambda tensor: tensor.as_subclass(Elsewhere))
    with pytest.raises(InvalidInputError, match=r"shared/extra/average lies on xpu:0"):
        begin({"shared/extra/average": torch.randn(3)}, pool)
