"""What every test session shares: a clean environment, Hypothesis profiles, tiers that must run, the S3 server."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.ceph import CephCluster, missing_commands
from tests.support.dealing import deal
from tests.support.journal_plugin import JournalPlugin
from tests.support.s3_server import S3Server
from tests.support.tiers import TierCheck, required_tiers

settings.register_profile("dev", max_examples=50, deadline=None)
# `make fuzz`: another seed in every round, and what was found is not kept: the seed says it.
settings.register_profile(
    "fuzz",
    max_examples=int(os.environ.get("PAWL_FUZZ_EXAMPLES", "400")),
    deadline=None,
    database=None,
    print_blob=True,
)
settings.register_profile("ci", max_examples=500, deadline=None, derandomize=True, print_blob=True)

_SLOW_S = 1800.0
"""A slow test may start a dozen trainings, beside two others that do."""


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is collected: forget the developer's own servers and keys, then set the profile."""
    # A shell lets what it starts in the background ignore Ctrl-C, and every child inherits that; tests press it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers", "long: what costs most and no way back needs; `make test-long`"
    )
    for name in list(os.environ):
        if name.startswith(("AWS_", "PREFECT_", "PAWL_STORAGE", "RAY_ADDRESS")):
            del os.environ[name]
    home = tempfile.TemporaryDirectory(prefix="pawl-prefect-")
    config.add_cleanup(home.cleanup)
    os.environ |= {
        "PREFECT_HOME": home.name,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "RAY_USAGE_STATS_ENABLED": "0",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
    # Of several processes that share the tests, only the one that hears of all of them can tell what is missing.
    alone = not hasattr(config, "workerinput")
    config.pluginmanager.register(
        TierCheck(required_tiers() if alone else frozenset()), "pawl-tiers"
    )
    if journal := os.environ.get("PAWL_JOURNAL"):
        slow = os.environ.get("PAWL_SLOW_JOURNAL")
        plugin = JournalPlugin(
            Path(journal).resolve(), config.rootpath, speaks=alone, slow=Path(slow).resolve() if slow else None
        )  # fmt: skip
        config.pluginmanager.register(plugin, "pawl-journal")


def pytest_unconfigure() -> None:
    """A process that shares the tests ends without its exit handlers: Prefect's own server of this process would outlive it."""
    if (prefects := sys.modules.get("prefect.server.api.server")) is not None:
        for server in list(prefects.SubprocessASGIServer._instances.values()):
            server.stop()


@pytest.hookimpl(trylast=True)  # of what the markers left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A full matrix may take its time. Where several processes share the tests, those that start trainings are dealt out.

    They begin among the tests of their tier only: tiers are sorted afterwards, cheap ones first. Beginning with the trainings
    was tried: DataLoader workers then die in a process that had connected to Ray.
    """
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SLOW_S))
    if (journal := config.pluginmanager.get_plugin("pawl-journal")) is not None:
        journal.leave_out(config, items)
    hands = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if hands > 1:
        items[:] = deal(items, hands, _starts_a_training)


def _starts_a_training(item: pytest.Item) -> bool:
    return all(item.get_closest_marker(name) is not None for name in ("ray", "prefect"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch  # noqa: PLC0415 - three seconds that only these tests should pay

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device here")


@pytest.fixture(scope="session")
def ceph() -> Iterator[CephCluster]:
    """The session's cluster, for a test that kills its daemons or needs lesser users; takes `s3_server` too."""
    if missing := missing_commands():
        reason = f"Ceph is not installed ({', '.join(missing)}): make setup-s3"
        pytest.fail(reason) if "s3" in required_tiers() else pytest.skip(reason)
    with CephCluster.running() as cluster:
        yield cluster


@pytest.fixture
def s3_server(ceph: CephCluster) -> Iterator[S3Server]:
    """The session's S3 server, empty; what a test leaves there is deleted."""
    yield ceph.server
    ceph.clean()


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """An empty bucket for one test."""
    return s3_server.new_bucket()
