"""Reading the log: what listings and caches may say without harm."""

from __future__ import annotations

from ray_workers.store import keys
from ray_workers.store.log import CACHE_EVERY_SLOTS
from ray_workers.store.log_reader import LogReader
from tests.support.faulty_store import FaultyStore, Hooked
from tests.support.plain_log import RUN, commit, new_run


def test_a_reader_that_meets_a_cache_written_meanwhile_finds_no_damage():
    store, writer = new_run()
    for step in range(1, CACHE_EVERY_SLOTS - 2):
        commit(writer, step=step)
    lists: list[str] = []

    def go_on(verb: str, key: str) -> None:
        if verb == "list":
            lists.append(key)
        if verb == "list" and lists.count(keys.folds_prefix(RUN)) == 2:
            commit(writer, step=1000)
            commit(writer, step=1001)

    state = LogReader(Hooked(store, go_on), RUN).fold()
    assert [*store.list(keys.folds_prefix(RUN))]
    assert (state.damaged, state.open_fence) == ((), 2)


def test_a_stray_object_far_above_the_log_costs_no_reads():
    inner, _ = new_run()
    inner.put(keys.log_key(RUN, 1_000), b"not a record")
    store = FaultyStore(inner)
    assert LogReader(store, RUN).fold().slot == 2
    assert len(store.calls) < 100
