from __future__ import annotations

import pytest

from ray_workers.store.memory import MemoryStore
from ray_workers.store.object_store import ObjectStore
from tests.ray_workers.store.store_conformance import StoreConformance


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return MemoryStore("conformance")


def test_one_name_is_one_store():
    assert MemoryStore.named("a") is MemoryStore.named("a")
    assert MemoryStore.named("a") is not MemoryStore.named("b")
    assert MemoryStore.named("a").url == "memory://a"
