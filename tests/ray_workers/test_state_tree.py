import json
import math
from collections import Counter, OrderedDict, defaultdict
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_workers.state_tree import MAX_DEPTH, escape, join, split
from ray_workers.store.errors import InvalidInputError, MalformedObjectError
from ray_workers.store.records import canonical_json


def through(tree):
    """Split, write as canonical JSON, read, join."""
    state = split(tree, prefix="shared")
    return join(json.loads(canonical_json(state.plain)), state.tensors)


def same(a, b):
    """Equal in type, order and every bit."""
    return spelled(a) == spelled(b)


def spelled(value):
    """A comparable spelling; `repr` tells -0.0 from 0.0 and equals NaN with NaN."""
    kind = type(value)
    if isinstance(value, torch.Tensor):
        return kind, value.dtype, value.shape, bits(value)
    if isinstance(value, np.ndarray | np.generic):
        return kind, value.dtype, value.shape, value.tobytes()
    if isinstance(value, dict):
        return kind, [(spelled(key), spelled(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return kind, [spelled(item) for item in value]
    return (kind, value) if isinstance(value, set | frozenset) else (kind, repr(value))


def bits(tensor):
    flat = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return flat.contiguous().reshape(-1).view(torch.uint8).tolist()


tensors = st.builds(
    lambda dtype, shape: torch.arange(math.prod(shape)).reshape(shape).to(dtype),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.complex128]),
    st.lists(st.integers(0, 3), max_size=3),
)  # fmt: skip
arrays = st.builds(
    lambda dtype, shape: np.arange(math.prod(shape)).reshape(shape).astype(dtype),
    st.sampled_from(["u1", "u2", "u4", "u8", "i8", "f2", "f4", "f8", "c8", "c16", "?"]),
    st.lists(st.integers(0, 3), max_size=3),
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary(max_size=2000)
    | st.sampled_from(
        [torch.float16, torch.device("cpu"), torch.device("cuda:1"), torch.Size([2, 3])]
    )
    | st.sampled_from(
        [np.float32(0.1), np.float64(0.1), np.int8(-3), np.bool_(1), np.complex64(1j)]
    )
)
keys = st.text() | st.integers() | st.booleans() | st.none() | st.tuples(st.integers(), st.text())
trees = st.recursive(
    scalars | tensors | arrays,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4).map(OrderedDict)
        | st.dictionaries(st.text(), st.integers(), max_size=4).map(Counter)
        | st.sets(st.integers() | st.text(), max_size=4)
        | st.frozensets(st.floats(allow_nan=False), max_size=4)
    ),
    max_leaves=12,
)


@given(trees)
def test_every_tree_comes_back_exactly(tree):
    assert same(through(tree), tree)


@given(trees)
def test_every_path_begins_with_the_prefix(tree):
    paths = split(tree, prefix="rank/3").tensors
    assert all(path == "rank/3" or path.startswith("rank/3/") for path in paths)


@given(st.sets(st.integers() | st.text() | st.floats(allow_nan=False), max_size=8))
def test_equal_sets_are_written_equally(members):
    turned: set[object] = set()
    for member in reversed(list(members)):
        turned.add(member)
    assert canonical_json(split(members, prefix="p").plain) == canonical_json(
        split(turned, prefix="p").plain
    )


def test_paths_and_plain_are_as_the_format_says():
    state = split({"b": {"x/y~z": torch.zeros(1)}, "a": [torch.ones(1), 5]}, prefix="shared")
    assert list(state.tensors) == ["shared/b/x~1y~0z", "shared/a/0"]
    assert state.plain == {
        "$map": [
            ["b", {"x/y~z": {"$tensor": "shared/b/x~1y~0z"}}],
            ["a", [{"$tensor": "shared/a/0"}, 5]],
        ]
    }
    assert escape("x/y~z") == "x~1y~0z"


def test_keys_that_look_alike_get_paths_of_their_own():
    tree = {
        1: torch.zeros(1),
        "1": torch.ones(1),
        "a/b": torch.zeros(2),
        "a": {"b": torch.ones(2)},
    }
    state = split(tree, prefix="p")
    assert len(state.tensors) == 4
    assert same(join(state.plain, state.tensors), tree)


def test_keys_that_look_like_markers_are_data():
    tree = {"$tensor": "p/x", "$map": [1]}
    assert through(tree) == tree


def test_tensors_are_not_copied():
    parameter = torch.nn.Parameter(torch.randn(3))
    array = np.zeros(3)
    strided = torch.randn(4, 4).t()
    state = split({"p": parameter, "a": array, "s": strided}, prefix="x")
    assert state.tensors["x/p"].data_ptr() == parameter.data_ptr()
    assert not state.tensors["x/p"].requires_grad
    assert state.tensors["x/s"].data_ptr() == strided.data_ptr()
    array[0] = 7
    assert state.tensors["x/a"][0] == 7


def test_arrays_that_torch_cannot_take_are_copied():
    fixed = np.arange(3)
    fixed.flags.writeable = False
    tree = {"fixed": fixed, "turned": np.arange(6)[::-2], "column": np.arange(6).reshape(2, 3).T}
    assert same(through(tree), tree)


def test_short_bytes_go_to_json_and_long_bytes_to_the_shard():
    state = split([b"a" * 1024, b"b" * 1025], prefix="p")
    assert set(state.plain[0]) == {"$bytes"}
    assert state.plain[1] == {"$bytes_tensor": "p/1"}
    assert state.tensors["p/1"].dtype is torch.uint8


class Colour(IntEnum):
    RED = 1


class Point(NamedTuple):
    x: int
    y: int


REFUSED = {
    "object": (object(), "builtins.object"),
    "function": (len, "builtin_function_or_method"),
    "lambda": (lambda: 1, "function"),
    "class": (Path, "builtins.type"),
    "path": (Path("x"), "PosixPath"),
    "enum": (Colour.RED, "Colour"),
    "named tuple": (Point(1, 2), "Point"),
    "default dict": (defaultdict(int), "collections.defaultdict"),
    "bytearray": (bytearray(b"x"), "builtins.bytearray"),
    "iterator": (iter(()), "builtins.tuple_iterator"),
    "module": (torch.nn.Linear(1, 1), "Linear"),
    "array of objects": (np.array([object()]), "numpy.ndarray of object"),
    "array of text": (np.array(["a"]), "numpy.ndarray of <U1"),
    "array of times": (np.array(["2026-01-01"], dtype="M8[D]"), "numpy.ndarray of datetime64"),
    "array of long doubles": (np.zeros(1, dtype=np.longdouble), "numpy.ndarray of float128"),
    "big-endian array": (np.zeros(1, dtype=">f4"), "numpy.ndarray of >f4"),
    "numpy text": (np.str_("a"), "numpy.str_"),
    "enormous number": (10**5000, "builtins.int"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_need_code_is_refused_with_its_place(case):
    value, kind = REFUSED[case]
    with pytest.raises(InvalidInputError, match=r"State at shared/a/0/k .*state_dict") as caught:
        split({"a": [{"k": value}]}, prefix="shared")
    assert kind in str(caught.value)


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.zeros(2, device="meta"), "meta tensor at p/x"),
        (torch.eye(2).to_sparse(), "sparse_coo tensor at p/x"),
        (torch.empty(2, dtype=torch.bits8), "type torch.bits8, which safetensors cannot hold"),
    ],
)
def test_tensors_that_are_not_dense(tensor, reason):
    with pytest.raises(InvalidInputError, match=reason):
        split({"x": tensor}, prefix="p")


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_text_that_is_no_unicode_is_refused(text):
    for tree in ({"k": text}, {text: torch.zeros(1)}, {text: 1}):
        with pytest.raises(InvalidInputError, match="no valid Unicode"):
            split(tree, prefix="p")


def nested(depth):
    tree: list[object] = []
    for _ in range(depth):
        tree = [tree]
    return tree


def test_depth_is_limited_alike_in_both_directions():
    assert through(nested(MAX_DEPTH)) == nested(MAX_DEPTH)
    with pytest.raises(InvalidInputError, match="nested more than 100 deep"):
        split(nested(MAX_DEPTH + 1), prefix="p")
    with pytest.raises(MalformedObjectError, match="nested more than 100 deep"):
        join(nested(MAX_DEPTH + 1), {})


def test_a_tree_that_contains_itself_is_refused():
    tree: dict[str, object] = {}
    tree["self"] = tree
    with pytest.raises(InvalidInputError, match="contains itself"):
        split(tree, prefix="p")


@pytest.mark.parametrize(
    "plain",
    [
        {"$tensor": "p/absent"},
        {"$tensor": 3},
        {"$tensor": "p/x", "more": 1},
        {"$unknown": 1},
        {"a": 1, "$tensor": "p/x"},
        {"$map": 1},
        {"$map": [[1]]},
        {"$map": [[1, 2, 3]]},
        {"$map": [["k", 1], ["k", 2]]},
        {"$map": [[[1], 2]]},
        {"$ordered": {"a": 1}},
        {"$counter": None},
        {"$tuple": {"a": 1}},
        {"$set": [[1]]},
        {"$frozenset": 1},
        {"$size": [-1, "x"]},
        {"$float": "1.0"},
        {"$complex": [1]},
        {"$scalar": ["O", "00"]},
        {"$scalar": ["<f4", "00"]},
        {"$scalar": ["<f4", "zz"]},
        {"$scalar": ["<f4", "00" * 8]},
        {"$scalar": ["f4,f4", "00" * 8]},
        {"$scalar": ["(2,)f4", "00" * 8]},
        {"$scalar": [["<f4"], "00000000"]},
        {"$dtype": "nn"},
        {"$dtype": "load"},
        {"$dtype": 1},
        {"$device": "nonsense:0"},
        {"$device": 1},
        {"$bytes": "???"},
        {"$bytes": 1},
        {"$bytes_tensor": "p/absent"},
        {"$complex_tensor": "p/x"},
        {"$complex_ndarray": "p/x"},
    ],
    ids=json.dumps,
)
def test_join_refuses(plain):
    with pytest.raises(MalformedObjectError, match="stored plain state is damaged"):
        join({"k": [plain]}, {"p/x": torch.zeros(3)})
