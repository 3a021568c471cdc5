import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ray_workers.store.errors import InvalidInputError
from ray_workers.store.layout import Chunk, TensorLayout, check_cover, merge_layouts
from ray_workers.store.strict_json import Fields


def chunk(offsets, shape, shard=0, name="t"):
    return Chunk(offsets=tuple(offsets), shape=tuple(shape), shard=shard, name=name)


def layout(shape, *chunks, dtype="F32"):
    return TensorLayout(dtype=dtype, shape=tuple(shape), chunks=chunks)


@st.composite
def gridded(draw):
    """A tensor cut along random lines in every dimension."""
    shape = draw(st.lists(st.integers(1, 6), max_size=3))
    axes = []
    for dim in shape:
        cuts = sorted(draw(st.sets(st.integers(1, dim - 1), max_size=3)) if dim > 1 else ())
        axes.append(list(itertools.pairwise([0, *cuts, dim])))
    boxes = [
        chunk([low for low, _ in box], [high - low for low, high in box])
        for box in itertools.product(*axes)
    ]
    return layout(shape, *draw(st.permutations(boxes)))


@given(gridded())
def test_a_grid_covers(whole):
    assert check_cover(whole) is None


@given(gridded(), st.data())
def test_a_missing_chunk_is_found(whole, data):
    gone = data.draw(st.integers(0, len(whole.chunks) - 1))
    rest = whole.chunks[:gone] + whole.chunks[gone + 1 :]
    assert "items are there" in (check_cover(replace(whole, chunks=rest)) or "")


@given(gridded(), st.data())
def test_a_chunk_given_twice_is_found(whole, data):
    again = data.draw(st.sampled_from(whole.chunks))
    assert check_cover(replace(whole, chunks=(*whole.chunks, again))) == "two chunks overlap"


@given(gridded(), st.data())
def test_a_moved_chunk_is_found(whole, data):
    assume(whole.shape)
    index = data.draw(st.integers(0, len(whole.chunks) - 1))
    axis = data.draw(st.integers(0, len(whole.shape) - 1))
    moved = list(whole.chunks[index].offsets)
    moved[axis] += 1
    chunks = list(whole.chunks)
    chunks[index] = replace(chunks[index], offsets=tuple(moved))
    assert check_cover(replace(whole, chunks=tuple(chunks))) is not None


def test_overlap_that_keeps_the_volume_is_found():
    problem = check_cover(layout([4], chunk([0], [2]), chunk([1], [2])))
    assert problem == "two chunks overlap"


@pytest.mark.parametrize(
    ("shape", "offsets", "extent"),
    [([4], [1], [4]), ([4], [5], [0]), ([4], [0, 0], [4, 1]), ([], [0], [1])],
)
def test_a_chunk_outside_is_found(shape, offsets, extent):
    assert "lies outside" in (check_cover(layout(shape, chunk(offsets, extent))) or "")


def test_scalars_and_empty_tensors():
    assert check_cover(layout([], chunk([], []))) is None
    assert check_cover(layout([], chunk([], []), chunk([], []))) == "two chunks overlap"
    assert check_cover(layout([])) == "0 of 1 items are there"
    assert check_cover(layout([0, 3])) is None
    assert check_cover(layout([0, 3], chunk([0, 0], [0, 3]), chunk([0, 0], [0, 3]))) is None


def test_impossible_types_are_found():
    assert check_cover(layout([2], chunk([0], [2]), dtype="X9")) == "unknown type 'X9'"


def test_many_shards_of_one_axis_are_checked_fast():
    n = 4000
    rows = layout([n, 8], *(chunk([i, 0], [1, 8]) for i in range(n)))
    columns = layout([8, n], *(chunk([0, i], [8, 1]) for i in range(n)))
    assert check_cover(rows) is None
    assert check_cover(columns) is None


@given(gridded())
def test_json_both_ways(whole):
    assert TensorLayout.from_json(Fields(whole.to_json(), "t")) == whole


# --- merging ------------------------------------------------------------------------------------


def test_chunks_get_the_index_of_their_rank():
    merged = merge_layouts(
        [{"a": layout([4], chunk([0], [2])), "b": layout([], chunk([], []))},
         {"a": layout([4], chunk([2], [2])), "b": layout([])}]
    )  # fmt: skip
    assert [c.shard for c in merged["a"].chunks] == [0, 1]
    assert [c.shard for c in merged["b"].chunks] == [0]
    assert math.prod(merged["a"].shape) == 4


@given(gridded(), st.integers(1, 4))
def test_merging_what_was_dealt_to_ranks_restores_the_tensor(whole, ranks):
    dealt = [{"t": replace(whole, chunks=whole.chunks[rank::ranks])} for rank in range(ranks)]
    merged = merge_layouts(dealt)["t"]
    assert check_cover(merged) is None
    for found in merged.chunks:
        assert replace(found, shard=0) in dealt[found.shard]["t"].chunks


def test_a_tensor_nobody_wrote_is_refused():
    with pytest.raises(
        InvalidInputError, match="tensor only/here would not be stored whole: 0 of 3"
    ):
        merge_layouts([{}, {"only/here": layout([3])}])


@pytest.mark.parametrize("other", [layout([5]), layout([4], dtype="F16")])
def test_ranks_that_disagree_are_refused(other):
    with pytest.raises(InvalidInputError, match="Ranks disagree about the tensor a"):
        merge_layouts([{"a": layout([4], chunk([0], [4]))}, {"a": other}])


def test_two_owners_are_refused():
    mine = {"a": layout([4], chunk([0], [4]))}
    with pytest.raises(InvalidInputError, match="two chunks overlap"):
        merge_layouts([mine, mine])
