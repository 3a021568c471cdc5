"""What is said at the start of models that do not give the same bits after a resume."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ray_workers.arithmetic_exactness import announce_arithmetic, look_at_model


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class OnCuda(nn.Linear):
    """As far as anybody can see from here."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:  # noqa: FBT001, FBT002
        del recurse
        yield SimpleNamespace(is_cuda=True)  # type: ignore[misc]


@pytest.mark.usefixtures("group")
def test_three_replicas_and_more_are_not_exact_unless_the_buckets_stay() -> None:
    plain = DistributedDataParallel(nn.Linear(2, 2))
    for model in (plain, nn.Sequential(plain)):
        ((level, sentence),) = look_at_model(model, world_size=3)
        assert level == logging.WARNING
        assert "3 gradients add up in another order" in sentence
        assert look_at_model(model, world_size=2) == ()
    lasting = DistributedDataParallel(nn.Linear(2, 2), find_unused_parameters=True)
    assert look_at_model(lasting, world_size=3) == ()
    lasting.static_graph = True
    assert len(look_at_model(lasting, world_size=3)) == 1


def test_kernels_that_differ_from_run_to_run_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pawl"):
        announce_arithmetic(OnCuda(2, 2), world_size=1)
        announce_arithmetic(nn.Linear(2, 2), world_size=1)
    ((level, sentence),) = [(record.levelno, record.message) for record in caplog.records]
    assert level == logging.INFO
    assert "use_deterministic_algorithms" in sentence
    torch.use_deterministic_algorithms(True)  # noqa: FBT003
    try:
        assert look_at_model(OnCuda(2, 2), world_size=1) == ()
    finally:
        torch.use_deterministic_algorithms(False)  # noqa: FBT003
