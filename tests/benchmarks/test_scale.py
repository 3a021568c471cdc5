"""The benchmark of scale, small: what grows, and with what. No times."""

from __future__ import annotations

import pytest

from benchmarks.scale_sim import RUN, drive, long_log, many_versions, resume
from ray_workers.store import keys
from ray_workers.store.log_reader import LogReader

A_SAVE = {"get": 2, "put": 1, "put_if_absent": 1}


@pytest.mark.parametrize("ranks", [1, 20, 400])
def test_a_save_takes_as_many_store_calls_for_any_number_of_ranks(ranks):
    first, second = drive(ranks, saves=2, tensors=2)
    assert second.calls == A_SAVE
    assert first.calls - second.calls == {"get": 1}  # what the attempt resumed from
    assert first.messages == ranks


def test_with_ranks_grow_the_manifest_linearly_and_neither_the_log_nor_a_report():
    few, some, many = (drive(ranks, saves=1, tensors=2)[0] for ranks in (100, 200, 400))
    step = some.manifest_bytes - few.manifest_bytes
    assert many.manifest_bytes - some.manifest_bytes == pytest.approx(2 * step, rel=0.05)
    assert many.log_bytes == pytest.approx(few.log_bytes, abs=8)
    assert many.report_bytes == pytest.approx(few.report_bytes, abs=40)


def test_a_resume_decision_reads_each_record_once_and_with_caches_those_above_the_newest():
    store = many_versions(50)
    slots = sum(1 for _ in store.list(keys.log_prefix(RUN)))
    cached, cold = resume(store, caches=True), resume(store, caches=False)
    assert (cached.version, cold.version) == (50, 50)
    assert slots <= cold.calls["get"] <= slots + 12
    assert cached.calls["get"] <= slots - 64 + 12
    assert cold.calls["list"] == cached.calls["list"]


def test_the_folds_of_a_long_log_are_the_state_that_was_written():
    store, state, cache = long_log(400, cache_at=300)
    assert LogReader(store, RUN).fold() == state
    store.put(cache.key, cache.data)
    reader = LogReader(store, RUN)
    assert reader.fold() == state
    assert reader.cache_slot == 300
