"""Live tensors filled straight from shards: the same values as by `shard_reading`, in their own memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ray_workers.plain_names import plain_state, without_copies
from ray_workers.store.checksum import digest_of
from ray_workers.store.errors import DamageError, MalformedObjectError, StateMismatchError
from ray_workers.store.shard_filling import fill_from
from ray_workers.tensor_filling import fill_tensors
from tests.ray_workers.test_shard_reading import blank, tensors, two_shards
from tests.support.versions import store_tensors, write_rank

ALL = ("shared", "rank/0")


def filler(version):
    def fill(entry, places):
        fill_from(memoryview(version.read(entry)), entry, places)

    return fill


def test_all_prefixes_come_from_one_read_into_the_memory_that_is_there():
    version = store_tensors(tensors())
    template = blank("")
    before = {path: (t.data_ptr(), t._version) for path, t in template.items()}
    fill_tensors(template, version.manifest, filler(version), prefixes=ALL)
    for path, tensor in template.items():
        assert torch.equal(tensor, tensors()[path])
        place, count = before[path]
        assert tensor.data_ptr() == place
        assert tensor._version > count or not tensor.numel(), (
            "a change in place that nobody could notice"
        )
    assert len(version.reads) == 1


def test_parameters_views_and_tensors_in_two_shards_are_filled():
    version = two_shards()
    whole = tensors()["shared/a"]
    for target in (torch.nn.Parameter(torch.zeros(3, 4)), torch.zeros(4, 3).t(), torch.zeros(3, 4)):
        fill_tensors({"shared/a": target}, version.manifest, filler(version), prefixes=ALL[:1])
        assert torch.equal(target, whole)
    assert sorted(set(version.reads)) == sorted(entry.key for entry in version.manifest.shards)


def test_a_misfit_is_named_before_anything_is_read():
    version = store_tensors(tensors())
    template = blank() | {"shared/a": torch.zeros(4, 3)}
    with pytest.raises(StateMismatchError, match="shared/a"):
        fill_tensors(template, version.manifest, filler(version), prefixes=ALL[:1])
    assert version.reads == []


@pytest.mark.parametrize(
    "other", [{"rank/1/b": torch.zeros(1, 4)}, {"rank/1/a": torch.zeros(4, 1)}]
)
def test_a_shard_that_is_not_what_the_manifest_says_is_damage(other):
    version = two_shards()
    entry, shard = version.manifest.shards[1], write_rank(other, rank=1).shard
    version.shards[entry.key] = shard
    entries = (
        version.manifest.shards[0],
        replace(entry, bytes=len(shard), digest=digest_of(shard)),
    )
    with pytest.raises(MalformedObjectError, match="does not hold the tensor rank/1/a"):
        fill_tensors(
            {"shared/a": torch.zeros(3, 4)},
            replace(version.manifest, shards=entries),
            filler(version),
            prefixes=ALL[:1],
        )


def test_a_damaged_or_unlisted_shard_is_damage():
    version = two_shards()
    key = version.manifest.shards[1].key
    version.shards[key] = version.shards[key][:-1] + b"?"
    template = {"shared/a": torch.zeros(3, 4)}
    for manifest in (
        version.manifest,
        replace(version.manifest, shards=version.manifest.shards[:1]),
    ):
        with pytest.raises(DamageError):
            fill_tensors(template, manifest, filler(version), prefixes=ALL[:1])


def test_what_is_the_models_own_memory_is_not_copied_again():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    state = plain_state(model)
    given = {**state, "0.weight": state["0.weight"].clone()}
    found = without_copies(model, given)
    assert found["0.bias"] is model[0].bias
    assert found["1.running_mean"] is model[1].running_mean
    assert found["0.weight"] is given["0.weight"]
    assert found.keys() == state.keys()
