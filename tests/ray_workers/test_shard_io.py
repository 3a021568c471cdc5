import math

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.state_dict_saver import save

from ray_workers.planners import PawlSavePlanner
from ray_workers.shard_io import PawlStorageWriter, plan_shard, write_shard
from ray_workers.store.checksum import digest_of
from ray_workers.store.errors import InternalError, InvalidInputError
from ray_workers.store.shards import parse_header
from ray_workers.tensor_types import dtype_name
from tests.support.versions import write_rank

TYPES = [
    dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype) and dtype_name(dtype)
]
LIBRARY_READS = [t for t in set(TYPES) if dtype_name(t) not in ("F8_E8M0", "F4")]


def filled(dtype, shape):
    """Every bit pattern is a value, NaNs of all kinds included; only bool has illegal ones."""
    count = math.prod(shape) * dtype.itemsize
    raw = (torch.arange(count) * 37 % 256).to(torch.uint8)
    return (
        (raw % 2 if dtype is torch.bool else raw).view(dtype).reshape(shape)
        if count
        else torch.empty(shape, dtype=dtype)
    )


def raw_bytes(tensor):
    return (
        tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        if tensor.numel()
        else b""
    )


def stored_bytes(shard, path):
    header = 8 + int.from_bytes(shard[:8], "little")
    found = {tensor.name: tensor for tensor in parse_header(shard)}[path]
    return shard[header + found.offset : header + found.offset + found.nbytes]


@pytest.mark.parametrize("dtype", sorted(set(TYPES), key=str), ids=str)
@pytest.mark.parametrize("shape", [(2, 4), (3, 0), (2, 2, 2)], ids=str)
def test_every_type_is_written_bit_for_bit(dtype, shape):
    tensor = filled(dtype, shape)
    shard = write_rank({"shared/x": tensor}, rank=0).shard
    assert stored_bytes(shard, "shared/x") == raw_bytes(tensor)
    assert dict(safetensors.deserialize(shard))["shared/x"]["data"] == raw_bytes(tensor)


@pytest.mark.parametrize("dtype", sorted(LIBRARY_READS, key=str), ids=str)
def test_the_library_reads_the_same_values(dtype):
    tensors = {
        "shared/m": filled(dtype, (2, 4)),
        "shared/none": filled(dtype, (0, 3)),
        "shared/one": filled(dtype, ()),
    }
    found = safetensors.torch.load(write_rank(tensors, rank=0).shard)
    for path, tensor in tensors.items():
        assert found[path].dtype == dtype
        assert found[path].shape == tensor.shape
        assert raw_bytes(found[path]) == raw_bytes(tensor)


VIEWS = {
    "transposed": lambda t: t.t(),
    "every second column": lambda t: t[:, ::2],
    "expanded": lambda t: t[:1].expand(5, -1),
    "offset": lambda t: t[1:, 1:],
    "channels last": lambda t: t.reshape(1, 2, 2, 4).contiguous(memory_format=torch.channels_last),
    "conjugate": lambda t: torch.complex(t, t + 1).conj(),
    "negative view": lambda t: torch.complex(t, t + 1).conj().imag,
}


@pytest.mark.parametrize("case", VIEWS)
def test_views_are_written_as_they_read(case):
    tensor = VIEWS[case](torch.randn(4, 4))
    expected = tensor.clone(memory_format=torch.contiguous_format).resolve_conj().resolve_neg()
    shard = write_rank({"shared/x": tensor}, rank=0).shard
    assert stored_bytes(shard, "shared/x") == raw_bytes(expected)


def test_tied_tensors_are_stored_under_both_names():
    weight = torch.nn.Parameter(torch.randn(3))
    shard = write_rank({"shared/a": weight.detach(), "shared/b": weight.detach()}, rank=0).shard
    assert (
        stored_bytes(shard, "shared/a")
        == stored_bytes(shard, "shared/b")
        == raw_bytes(weight.detach())
    )


def test_a_tensor_that_wants_a_gradient_is_copied_without_it():
    weight = torch.randn(3, requires_grad=True)
    assert stored_bytes(write_rank({"shared/a": weight}, rank=0).shard, "shared/a") == raw_bytes(
        weight.detach()
    )


states = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=5).map(lambda s: "shared/" + s),
    st.builds(
        filled,
        st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.uint8, torch.bool, torch.complex64]),
        st.lists(st.integers(0, 4), max_size=3).map(tuple),
    ),
    max_size=8,
)  # fmt: skip


@given(states, st.randoms(use_true_random=False))
def test_equal_state_gives_equal_digests_in_whatever_order(tensors, random):
    paths = list(tensors)
    random.shuffle(paths)
    turned = {path: tensors[path].clone() for path in paths}
    assert digest_of(write_rank(turned, rank=0).shard) == digest_of(
        write_rank(tensors, rank=0).shard
    )


@given(states)
def test_no_byte_of_the_buffer_is_left_as_it_was(tensors):
    plan = plan_shard(tensors, rank=0)
    shards = []
    for background in (b"\x00", b"\xff"):
        buffer = bytearray(background * (plan.total + 7))
        write_shard(plan, tensors, memoryview(buffer))
        assert buffer[plan.total :] == background * 7
        shards.append(bytes(buffer[: plan.total]))
    assert shards[0] == shards[1]
    parse_header(shards[0])


def test_the_copy_is_taken_and_the_tensors_may_change():
    tensor = torch.zeros(3)
    plan = plan_shard({"shared/x": tensor}, rank=0)
    buffer = bytearray(plan.total)
    write_shard(plan, {"shared/x": tensor}, memoryview(buffer))
    tensor += 1
    assert stored_bytes(bytes(buffer), "shared/x") == bytes(12)


def test_a_plan_is_used_again_for_later_values():
    tensors = {"shared/x": torch.zeros(3), "shared/y": torch.zeros(2, dtype=torch.int64)}
    plan = plan_shard(tensors, rank=0)
    later = {path: tensor + 1 for path, tensor in tensors.items()}
    assert plan.fits(later)
    buffer = bytearray(plan.total)
    write_shard(plan, later, memoryview(buffer))
    assert bytes(buffer) == write_rank(later, rank=0).shard


@pytest.mark.parametrize(
    "changed",
    [
        {"shared/x": torch.zeros(4)},
        {"shared/x": torch.zeros(3, dtype=torch.float64)},
        {"shared/z": torch.zeros(3)},
        {"shared/x": torch.zeros(3), "shared/y": torch.zeros(3)},
        {},
    ],
    ids=["shape", "type", "path", "more", "less"],
)
def test_a_plan_knows_when_it_no_longer_fits(changed):
    plan = plan_shard({"shared/x": torch.zeros(3)}, rank=0)
    assert not plan.fits(changed)


@pytest.mark.parametrize(
    "changed", [torch.zeros(1), torch.zeros(3, dtype=torch.float64), torch.zeros(1, 3)], ids=str
)
def test_a_changed_tensor_is_never_broadcast_or_converted(changed):
    plan = plan_shard({"shared/x": torch.zeros(3)}, rank=0)
    with pytest.raises(InternalError, match="shared/x changed since"):
        write_shard(plan, {"shared/x": changed}, memoryview(bytearray(plan.total)))


def test_a_buffer_that_does_not_do_is_refused():
    tensors = {"shared/x": torch.zeros(3)}
    plan = plan_shard(tensors, rank=0)
    for buffer in (memoryview(bytearray(plan.total - 1)), memoryview(bytes(plan.total))):
        with pytest.raises(InternalError, match="writable buffer"):
            write_shard(plan, tensors, buffer)


# --- who writes what ----------------------------------------------------------------------------


def test_rank_zero_writes_what_is_replicated():
    tensors = {"shared/x": torch.ones(3)}
    assert len(plan_shard(tensors, rank=0).layout()["shared/x"].chunks) == 1
    other = plan_shard(tensors, rank=1)
    assert other.layout()["shared/x"].chunks == ()
    assert other.total == len(other.parts[0].header)


def test_each_rank_writes_its_own_state_and_no_other():
    assert plan_shard({"rank/3/rng": torch.ones(3)}, rank=3).layout()["rank/3/rng"].chunks
    for path in ("rank/2/rng", "rank/30/rng", "rank/3"):
        with pytest.raises(InvalidInputError, match="belongs to another rank"):
            plan_shard({path: torch.ones(3)}, rank=3)


@pytest.mark.parametrize("value", [b"pickle me", 3, None, {"a": 1}, torch.zeros(2).as_subclass(type("T", (torch.Tensor,), {}))])  # fmt: skip
def test_a_byte_item_is_refused(value):
    with pytest.raises(InvalidInputError, match="value at shared/x is of type"):
        plan_shard({"shared/x": value}, rank=0)


def test_a_type_no_shard_can_hold_is_refused():
    with pytest.raises(InvalidInputError, match="complex128"):
        plan_shard({"shared/x": torch.zeros(1, dtype=torch.complex128)}, rank=0)


# --- through torch.distributed.checkpoint ---------------------------------------------------------


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_dcp_save_writes_the_same_shard():
    tensors = {"shared/x": torch.randn(3), "rank/0/y": torch.arange(4)}
    writer = PawlStorageWriter(tensors)
    save(dict(tensors), storage_writer=writer, planner=PawlSavePlanner(rank=0), no_dist=True)
    assert writer.buffer is not None
    assert bytes(writer.buffer) == write_rank(tensors, rank=0).shard


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_dcp_save_with_its_own_planner_cannot_pickle_through_our_writer():
    state = {"shared/x": "would be pickled"}
    with pytest.raises(CheckpointException, match="byte item"):
        save(state, storage_writer=PawlStorageWriter({}), planner=DefaultSavePlanner(flatten_state_dict=False), no_dist=True)  # fmt: skip
