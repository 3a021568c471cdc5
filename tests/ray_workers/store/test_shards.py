import json
import tracemalloc

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from ray_workers.store.checksum import digest_of
from ray_workers.store.errors import (
    DigestMismatchError,
    InvalidInputError,
    MalformedObjectError,
    ObjectNotFoundError,
)
from ray_workers.store.memory import MemoryStore
from ray_workers.store.shards import (
    DTYPE_BITS,
    MAX_HEADER_BYTES,
    ShardEntry,
    arrange,
    build_header,
    data_start,
    nbytes_of,
    parse_header,
    read_shard,
)

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
specs = st.lists(
    st.tuples(
        st.text(max_size=12).filter("__metadata__".__ne__),
        st.sampled_from([d for d in DTYPE_BITS if d != "F4"]),
        shapes,
    ),
    max_size=12,
    unique_by=lambda spec: spec[0],
)


def shard_of(tensors):
    return build_header(tensors) + bytes(sum(tensor.nbytes for tensor in tensors))


def raw_shard(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


# --- writing ------------------------------------------------------------------------------------


@given(specs)
def test_what_is_built_parses_back(given_specs):
    tensors = arrange(given_specs)
    assert parse_header(shard_of(tensors)) == tensors


@given(specs)
def test_the_library_reads_what_is_built(given_specs):
    tensors = arrange(given_specs)
    found = dict(safetensors.deserialize(shard_of(tensors)))
    assert {name: (v["dtype"], tuple(v["shape"])) for name, v in found.items()} == {
        tensor.name: (tensor.dtype, tensor.shape) for tensor in tensors
    }


@given(specs)
def test_order_of_the_input_does_not_matter(given_specs):
    assert arrange(given_specs) == arrange(reversed(given_specs))


@given(specs)
def test_data_and_every_tensor_are_aligned(given_specs):
    tensors = arrange(given_specs)
    start = data_start(build_header(tensors))
    assert start % 64 == 0
    for tensor in tensors:
        assert (start + tensor.offset) % (DTYPE_BITS[tensor.dtype] // 8) == 0


def test_values_written_by_the_library_are_found_where_the_header_says():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    other = np.ones((), dtype=np.bool_)
    shard = safetensors.numpy.save({"a": array, "b": other}, metadata={"note": "x"})
    start = data_start(shard)
    found = {tensor.name: tensor for tensor in parse_header(shard)}
    a, b = found["a"], found["b"]
    assert (a.dtype, a.shape, b.dtype, b.shape) == ("F32", (3, 4), "BOOL", ())
    assert shard[start + a.offset : start + a.offset + a.nbytes] == array.tobytes()
    assert shard[start + b.offset : start + b.offset + b.nbytes] == other.tobytes()


def test_packed_four_bit_items():
    tensors = arrange([("a", "F4", (3, 4))])
    assert tensors[0].nbytes == 6
    assert dict(safetensors.deserialize(shard_of(tensors)))["a"]["dtype"] == "F4"
    with pytest.raises(InvalidInputError, match="impossible size"):
        arrange([("a", "F4", (3,))])


@pytest.mark.parametrize("name", ["__metadata__", "twice"])
def test_a_taken_name_is_refused(name):
    with pytest.raises(InvalidInputError, match="is taken"):
        build_header(arrange([(name, "U8", (1,)), ("twice", "U8", (2,))]))


def test_a_name_that_is_no_text_is_refused():
    with pytest.raises(InvalidInputError, match="no valid Unicode"):
        build_header(arrange([("\ud800", "U8", ())]))


def test_unknown_type_is_refused():
    with pytest.raises(InvalidInputError, match="'x' cannot be stored: unknown type 'C128'"):
        arrange([("x", "C128", ())])


# --- malicious or damaged headers ---------------------------------------------------------------


def u8(begin, end):
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}


MALFORMED = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "length beyond the limit": (2**63).to_bytes(8, "little") + b"{}",
    "length all ones": b"\xff" * 8 + b"{}",
    "length just beyond the object": (3).to_bytes(8, "little") + b"{}",
    "not json": raw_shard(b"{nope"),
    "list": raw_shard([]),
    "leading space": raw_shard(b" {}"),
    "not utf-8": raw_shard(b'{"\xff":1}'),
    "deep list": raw_shard(b'{"a":' + b"[" * 1_000_000),
    "deep object": raw_shard(b'{"a":' * 1_000_000),
    "duplicate": raw_shard(b'{"a":%b,"a":%b}' % ((json.dumps(u8(0, 1)).encode(),) * 2), b"x"),
    "duplicate field": raw_shard(b'{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "overlap": raw_shard({"a": u8(0, 4), "b": u8(2, 6)}, b"x" * 6),
    "same place": raw_shard({"a": u8(0, 4), "b": u8(0, 4)}, b"x" * 4),
    "hole": raw_shard({"a": u8(0, 2), "b": u8(3, 4)}, b"x" * 4),
    "hole at the start": raw_shard({"a": u8(1, 2)}, b"x" * 2),
    "beyond the data": raw_shard({"a": u8(0, 2), "b": u8(100, 102)}, b"x" * 4),
    "rest unnamed": raw_shard({"a": u8(0, 2)}, b"x" * 3),
    "data missing": raw_shard({"a": u8(0, 4)}, b"x" * 3),
    "negative offset": raw_shard({"a": {"dtype": "U8", "shape": [1], "data_offsets": [-1, 0]}}),
    "negative dimension": raw_shard({"a": {"dtype": "U8", "shape": [-1, -1], "data_offsets": [0, 1]}}, b"x"),
    "backwards": raw_shard({"a": {"dtype": "U8", "shape": [0], "data_offsets": [1, 0]}}, b"x"),
    "size does not fit": raw_shard({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"x" * 4),
    "float offset": raw_shard({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1.0]}}, b"x"),
    "bool dimension": raw_shard({"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, b"x"),
    "one offset": raw_shard({"a": {"dtype": "U8", "shape": [0], "data_offsets": [0]}}),
    "three offsets": raw_shard({"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0, 0]}}),
    "unknown type": raw_shard({"a": {"dtype": "F3", "shape": [0], "data_offsets": [0, 0]}}),
    "unknown field": raw_shard({"a": {**u8(0, 0), "code": "x"}}),
    "missing field": raw_shard({"a": {"dtype": "U8", "shape": [0]}}),
    "tensor is a list": raw_shard({"a": [1]}),
    "overflowing shape": raw_shard({"a": {"dtype": "U8", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
    "huge dimension": raw_shard({"a": {"dtype": "U8", "shape": [10**4000, 0], "data_offsets": [0, 0]}}),
    "many dimensions": raw_shard({"a": {"dtype": "U8", "shape": [1] * 65, "data_offsets": [0, 1]}}, b"x"),
    "huge number": raw_shard(b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}'),
    "infinite": raw_shard(b'{"a":{"dtype":"U8","shape":[1e999],"data_offsets":[0,0]}}'),
    "metadata is a list": raw_shard({"__metadata__": []}),
    "metadata of numbers": raw_shard({"__metadata__": {"a": 1}}),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_shards_are_refused_within_bounded_memory(case):
    shard = MALFORMED[case]
    tracemalloc.start()
    try:
        with pytest.raises(MalformedObjectError, match="the-key is not a valid shard") as caught:
            parse_header(shard, key="the-key")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.details["key"] == "the-key"
    assert peak < 3 * len(shard) + 2 * 1024 * 1024


def test_the_header_limit_is_checked_before_the_header_is_read():
    claimed = (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}"
    with pytest.raises(MalformedObjectError, match="more than"):
        parse_header(claimed, size=2**40)
    with pytest.raises(MalformedObjectError, match="more than"):
        data_start(claimed)


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_malformed(junk):
    for data in (junk, raw_shard(junk), raw_shard(b"{" + junk)):
        try:
            parse_header(data)
        except MalformedObjectError:
            continue


def test_a_beginning_is_enough_when_the_size_is_given():
    tensors = arrange([("a", "F32", (1000,))])
    header = build_header(tensors)
    assert parse_header(header, size=len(header) + 4000) == tensors
    with pytest.raises(MalformedObjectError, match="need 4000 bytes, but 3999"):
        parse_header(header, size=len(header) + 3999)


def test_nbytes():
    assert nbytes_of("F64", ()) == 8
    assert nbytes_of("C64", (2, 3)) == 48
    assert nbytes_of("BF16", (2**61, 0)) == 0


# --- reading from a store -----------------------------------------------------------------------

KEY = "runs/r/shards/00000000000000000001/" + "0" * 32 + ".safetensors"


class CountingStore(MemoryStore):
    """Answers the first reads with damaged bytes."""

    def __init__(self, *damaged):
        super().__init__()
        self.damaged = list(damaged)
        self.reads = 0

    def get(self, key, **rest):
        self.reads += 1
        return self.damaged.pop(0) if self.damaged else super().get(key, **rest)


def entry_of(data):
    return ShardEntry(rank=0, key=KEY, bytes=len(data), digest=digest_of(data))


def stored(*damaged):
    store = CountingStore(*damaged)
    data = shard_of(arrange([("a", "F32", (4,))]))
    store.put(KEY, data)
    return store, data


def test_read_shard_returns_verified_bytes():
    store, data = stored()
    assert read_shard(store, entry_of(data)) == data
    assert store.reads == 1


def test_one_bad_transfer_is_read_again():
    store, data = stored(b"x" * 10)
    assert read_shard(store, entry_of(data)) == data
    assert store.reads == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d[:-1], "it has 79 bytes, but 80 were written"),
        (lambda d: d + b"\0", "it has 81 bytes, but 80 were written"),
        (lambda d: d[:-1] + b"\1", "its bytes have the digest"),
    ],
    ids=["short", "long", "flipped"],
)
def test_damage_is_found(change, reason):
    store, data = stored()
    store.damaged = [change(data)] * 2
    with pytest.raises(DigestMismatchError, match=reason):
        read_shard(store, entry_of(data))
    assert store.reads == 2


def test_absent_shard_is_not_called_damage():
    with pytest.raises(ObjectNotFoundError):
        read_shard(MemoryStore(), entry_of(b""))
