"""A process comes up while its store is away; the store is opened by the first write that finds it there."""

from __future__ import annotations

import pytest

from ray_workers.store.errors import RunNotFoundError
from ray_workers.store.late_store import LateStore
from ray_workers.store.opening import StorageTarget


def test_it_is_opened_by_the_first_write_that_can(tmp_path, monkeypatch):
    target = StorageTarget(str(tmp_path / "store"))
    late = LateStore(target)
    with pytest.raises(RunNotFoundError):  # never made here: the folder may be another machine's
        late.put("runs/r/shards/key", b"1")
    assert not (tmp_path / "store").exists()
    store = target.open(create=True).store
    opened: list[StorageTarget] = []
    monkeypatch.setattr(StorageTarget, "open", _counted(opened))
    late.put("runs/r/shards/key", b"2")
    late.put("runs/r/shards/other", b"3")
    assert (store.get("runs/r/shards/key"), store.get("runs/r/shards/other")) == (b"2", b"3")
    assert len(opened) == 1


def _counted(calls):
    real = StorageTarget.open

    def opened(self, **options):
        calls.append(self)
        return real(self, **options)

    return opened
