from dataclasses import replace

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import LoadItemType, ReadItem
from torch.distributed.checkpoint.state_dict_loader import load

from ray_workers.planners import PawlLoadPlanner, describe_mismatch
from ray_workers.shard_io import check_fit, load_tensors, read_tensor, read_tensors
from ray_workers.shard_reading import PawlStorageReader, stored_layouts
from ray_workers.store.checksum import digest_of
from ray_workers.store.errors import (
    DigestMismatchError,
    InvalidInputError,
    MalformedObjectError,
    ObjectNotFoundError,
    StateMismatchError,
)
from ray_workers.store.layout import Chunk, TensorLayout
from tests.ray_workers.test_shard_io import TYPES, filled, raw_bytes
from tests.support.versions import RankPart, make_version, store_tensors, write_rank


def tensors():
    return {
        "shared/a": torch.arange(12.0).reshape(3, 4),
        "shared/b": torch.tensor(7),
        "shared/none": torch.empty(0, 3),
        "rank/0/rng": torch.arange(5, dtype=torch.uint8),
    }


def blank(path="shared/"):
    return {
        name: torch.full_like(tensor, 99)
        for name, tensor in tensors().items()
        if name.startswith(path)
    }


@pytest.mark.parametrize("dtype", sorted(set(TYPES), key=str), ids=str)
@pytest.mark.parametrize("shape", [(2, 4), (3, 0), (4,)], ids=str)
def test_every_type_comes_back_bit_for_bit(dtype, shape):
    tensor = filled(dtype, shape)
    version = store_tensors({"shared/x": tensor})
    found = read_tensor(version.manifest, "shared/x", version.read)
    assert found.dtype == dtype
    assert found.shape == tensor.shape
    assert raw_bytes(found) == raw_bytes(tensor)


def test_the_template_is_filled_in_place():
    version = store_tensors(tensors())
    template = blank()
    places = {path: tensor.data_ptr() for path, tensor in template.items()}
    load_tensors(template, version.manifest, version.read)
    for path, tensor in template.items():
        assert torch.equal(tensor, tensors()[path])
        assert tensor.data_ptr() == places[path]


def test_a_parameter_and_a_view_can_be_filled():
    version = store_tensors({"shared/a": torch.arange(6.0).reshape(2, 3)})
    parameter = torch.nn.Parameter(torch.zeros(2, 3))
    load_tensors({"shared/a": parameter}, version.manifest, version.read)
    whole = torch.zeros(3, 2)
    load_tensors({"shared/a": whole.t()}, version.manifest, version.read)
    assert torch.equal(parameter, torch.arange(6.0).reshape(2, 3))
    assert torch.equal(whole, parameter.t())
    assert parameter.requires_grad


def test_each_prefix_is_read_alone():
    version = store_tensors(tensors())
    assert list(read_tensors(version.manifest, version.read, prefix="rank/0")) == ["rank/0/rng"]
    assert read_tensors(version.manifest, version.read, prefix="rank/00") == {}
    assert sorted(stored_layouts(version.manifest, "shared")) == [
        "shared/a",
        "shared/b",
        "shared/none",
    ]


def test_one_tensor_by_name():
    version = store_tensors(tensors())
    assert torch.equal(
        read_tensor(version.manifest, "shared/a", version.read), tensors()["shared/a"]
    )
    with pytest.raises(StateMismatchError, match="no tensor shared/c"):
        read_tensor(version.manifest, "shared/c", version.read)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_dcp_load_reads_through_our_parts():
    version = store_tensors(tensors())
    template = blank()
    reader = PawlStorageReader(
        stored_layouts(version.manifest, "shared"), version.manifest.shards, version.read
    )
    load(dict(template), storage_reader=reader, planner=PawlLoadPlanner(), no_dist=True)
    assert all(torch.equal(template[path], tensors()[path]) for path in template)


# --- what does not fit ----------------------------------------------------------------------------

MISFITS = {
    "missing": (lambda t: t | {"shared/new": torch.zeros(1)}, r"1 missing in the version: shared/new"),
    "unexpected": (lambda t: {k: v for k, v in t.items() if k != "shared/b"}, r"1 not in the training code: shared/b"),
    "shape": (
        lambda t: t | {"shared/a": torch.zeros(4, 3)}, r"shared/a \(stored float32\[3, 4\], here float32\[4, 3\]\)",
    ),
    "broadcastable shape": (lambda t: t | {"shared/a": torch.zeros(1, 4)}, r"here float32\[1, 4\]"),
    "type": (lambda t: t | {"shared/a": torch.zeros(3, 4).double()}, r"here float64\[3, 4\]"),
    "empty shape": (lambda t: t | {"shared/none": torch.zeros(0, 4)}, r"stored float32\[0, 3\]"),
    "scalar": (lambda t: t | {"shared/b": torch.tensor([7])}, r"stored int64\[\], here int64\[1\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_a_misfit_is_named_before_anything_is_read_or_changed(case):
    change, reason = MISFITS[case]
    version = store_tensors(tensors())
    template = change(blank())
    before = {path: tensor.clone() for path, tensor in template.items()}
    with pytest.raises(StateMismatchError, match=reason):
        load_tensors(template, version.manifest, version.read)
    with pytest.raises(StateMismatchError, match=reason):
        check_fit(template, version.manifest)
    assert version.reads == []
    assert all(torch.equal(before[path], template[path]) for path in template)


def test_a_fitting_template_passes_the_check():
    check_fit(blank(), store_tensors(tensors()).manifest)


def test_five_of_each_are_shown():
    wanted = {f"n{i}": (torch.float32, (1,)) for i in range(7)}
    message = describe_mismatch(wanted, {"other": (torch.float32, ())}) or ""
    assert "7 missing in the version: n0, n1, n2, n3, n4 and 2 more" in message
    assert "1 not in the training code: other" in message
    assert describe_mismatch(wanted, dict(wanted)) is None


# --- damage ---------------------------------------------------------------------------------------


def two_shards():
    """`shared/a` in halves over two shards, as two ranks would write it."""
    whole = tensors()["shared/a"]
    parts = []
    for rank, rows in enumerate((slice(0, 2), slice(2, 3))):
        part = write_rank({f"rank/{rank}/a": whole[rows]}, rank=rank)
        chunk = Chunk(
            offsets=(rows.start, 0), shape=tuple(whole[rows].shape), shard=0, name=f"rank/{rank}/a"
        )
        layout = TensorLayout(dtype="F32", shape=(3, 4), chunks=(chunk,))
        parts.append(RankPart(layouts={"shared/a": layout}, shard=part.shard))
    return make_version(parts)


def test_a_tensor_in_two_shards_is_put_together():
    version = two_shards()
    assert torch.equal(
        read_tensor(version.manifest, "shared/a", version.read), tensors()["shared/a"]
    )
    assert sorted(version.reads) == sorted(entry.key for entry in version.manifest.shards)


@pytest.mark.parametrize("bad", [0, 1])
def test_one_flipped_byte_in_any_shard_changes_nothing(bad):
    version = two_shards()
    key = version.manifest.shards[bad].key
    damaged = bytearray(version.shards[key])
    damaged[-1] ^= 1
    version.shards[key] = bytes(damaged)
    template = {"shared/a": torch.full((3, 4), 99.0)}
    with pytest.raises(DigestMismatchError, match=key):
        load_tensors(template, version.manifest, version.read)
    assert torch.equal(template["shared/a"], torch.full((3, 4), 99.0))


def test_a_missing_shard_changes_nothing():
    version = two_shards()

    def read(entry):
        if entry.rank == 1:
            raise ObjectNotFoundError(f"{entry.key} is not there.", key=entry.key)
        return version.read(entry)

    template = {"shared/a": torch.full((3, 4), 99.0)}
    with pytest.raises(ObjectNotFoundError):
        load_tensors(template, version.manifest, read)
    assert torch.equal(template["shared/a"], torch.full((3, 4), 99.0))


@pytest.mark.parametrize(
    "other",
    [
        {"rank/1/b": torch.zeros(1, 4)},
        {"rank/1/a": torch.zeros(4, 1)},
        {"rank/1/a": torch.zeros(1, 4, dtype=torch.int32)},
        {},
    ],
    ids=["name", "shape", "type", "empty"],
)
def test_a_shard_that_is_not_what_the_manifest_says_changes_nothing(other):
    version = two_shards()
    entry = version.manifest.shards[1]
    shard = write_rank(other, rank=1).shard
    entries = (
        version.manifest.shards[0],
        replace(entry, bytes=len(shard), digest=digest_of(shard)),
    )
    version.shards[entry.key] = shard
    template = {"shared/a": torch.full((3, 4), 99.0)}
    with pytest.raises(MalformedObjectError, match="does not hold the tensor rank/1/a"):
        load_tensors(template, replace(version.manifest, shards=entries), version.read)
    assert torch.equal(template["shared/a"], torch.full((3, 4), 99.0))


def test_a_gap_in_the_manifest_is_refused():
    version = two_shards()
    layout = version.manifest.tensors["shared/a"]
    manifest = replace(
        version.manifest, tensors={"shared/a": replace(layout, chunks=layout.chunks[:1])}
    )
    with pytest.raises(MalformedObjectError, match="shared/a is not whole: 8 of 12"):
        load_tensors({"shared/a": torch.zeros(3, 4)}, manifest, version.read)


def test_a_shard_that_is_not_listed_is_refused():
    version = two_shards()
    with pytest.raises(MalformedObjectError, match="names shard 1 of 1"):
        load_tensors(
            {"shared/a": torch.zeros(3, 4)},
            replace(version.manifest, shards=version.manifest.shards[:1]),
            version.read,
        )


def test_a_shard_by_the_library_is_read_even_if_unaligned():
    whole = torch.arange(3.0)
    shard = safetensors.torch.save({"x": whole})
    for pad in range(8):
        # A legal header of any length, so data may begin anywhere.
        length = int.from_bytes(shard[:8], "little")
        moved = (
            (length + pad).to_bytes(8, "little")
            + shard[8 : 8 + length]
            + b" " * pad
            + shard[8 + length :]
        )
        layout = TensorLayout(
            dtype="F32", shape=(3,), chunks=(Chunk(offsets=(0,), shape=(3,), shard=0, name="x"),)
        )
        version = make_version([RankPart(layouts={"shared/x": layout}, shard=moved)])
        assert torch.equal(read_tensor(version.manifest, "shared/x", version.read), whole)


# --- any layout to any layout ---------------------------------------------------------------------


@given(st.integers(1, 12), st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 1))
def test_any_cut_comes_back_whole(other_dim, lengths, axis):
    shape = [other_dim, other_dim]
    shape[axis] = sum(lengths)
    whole = torch.arange(shape[0] * shape[1], dtype=torch.int32).reshape(shape)
    parts, begin = [], 0
    for rank, length in enumerate(lengths):
        piece = whole.narrow(axis, begin, length)
        offsets = (begin, 0) if axis == 0 else (0, begin)
        chunk = Chunk(offsets=offsets, shape=tuple(piece.shape), shard=0, name=f"rank/{rank}/x")
        layout = TensorLayout(dtype="I32", shape=tuple(shape), chunks=(chunk,))
        shard = write_rank({f"rank/{rank}/x": piece}, rank=rank).shard
        parts.append(RankPart(layouts={"shared/x": layout}, shard=shard))
        begin += length
    version = make_version(parts)
    assert torch.equal(read_tensor(version.manifest, "shared/x", version.read), whole)


# --- nothing is unpickled -------------------------------------------------------------------------


def test_byte_items_are_refused_on_the_way_in():
    planner = PawlLoadPlanner()
    planner.set_up_planner({}, Metadata({"shared/x": BytesStorageMetadata()}), is_coordinator=True)
    with pytest.raises(InvalidInputError, match="shared/x is a byte item"):
        planner.create_local_plan()


def test_bytes_are_never_loaded():
    index, nothing = MetadataIndex("shared/x"), torch.Size((0,))
    item = ReadItem(LoadItemType.BYTE_IO, index, nothing, index, nothing, nothing)
    with pytest.raises(InvalidInputError, match="byte item"):
        PawlLoadPlanner().load_bytes(item, None)  # type: ignore[arg-type] # not even looked at
