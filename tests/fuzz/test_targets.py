"""Whatever stands in a store, reading it returns or raises an error of ours. `make fuzz` plays the same for long."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_workers.store.records import canonical_json
from ray_workers.store.shards import data_start
from tests.support.fuzz_targets import (
    PARSERS,
    RUN,
    example_objects,
    play_cache,
    play_log,
    play_store,
    resealed,
)
from tests.support.mutations import altered_json, damaged_bytes

OBJECTS = sorted(example_objects())
LOG = [key for key in OBJECTS if f"runs/{RUN}/log/" in key]


def spelled_as(spell, value):
    """None: it cannot even be spelled."""
    try:
        return spell(value)
    except (ValueError, RecursionError):
        return None


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_damaged_bytes(name, data):
    target, example = PARSERS[name]
    target(data.draw(damaged_bytes(example())))


@given(data=st.data())
def test_an_altered_record_with_a_digest_that_holds(data):
    key = data.draw(st.sampled_from(LOG))
    play_log(LOG.index(key) + 1, data.draw(altered_json(json.loads(example_objects()[key]))))


@given(data=st.data())
def test_an_altered_manifest_in_canonical_spelling(data):
    target, example = PARSERS["manifest"]
    value = data.draw(altered_json(json.loads(example())))
    if (spelled := spelled_as(canonical_json, value)) is not None:
        target(spelled)


@given(data=st.data())
def test_an_altered_shard_header_of_the_right_length(data):
    target, example = PARSERS["shard header"]
    shard = example()
    start = data_start(shard)
    header = json.dumps(data.draw(altered_json(json.loads(shard[8:start])))).encode()
    target(len(header).to_bytes(8, "little") + header + shard[start:])


@given(data=st.data())
def test_an_altered_root(data):
    target, example = PARSERS["root"]
    target(json.dumps(data.draw(altered_json(json.loads(example())))).encode())


@given(data=st.data())
def test_an_altered_cache_with_a_digest_that_holds(data):
    [cache] = [key for key in OBJECTS if "/folds/" in key]
    value = data.draw(altered_json(json.loads(example_objects()[cache])))
    if (sealed := spelled_as(resealed, value)) is not None:
        play_cache(sealed)


@given(data=st.data())
def test_a_store_in_which_objects_were_damaged_lost_and_exchanged(data):
    objects = dict(example_objects())
    for key in data.draw(st.lists(st.sampled_from(OBJECTS), min_size=1, max_size=3)):
        what = data.draw(st.sampled_from(["damage", "lose", "exchange"]))
        if what == "lose":
            objects.pop(key, None)
        elif what == "exchange":
            objects[key] = example_objects()[data.draw(st.sampled_from(OBJECTS))]
        else:
            objects[key] = data.draw(damaged_bytes(example_objects()[key]))
    play_store(objects)
