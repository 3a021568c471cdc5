"""A real S3 server behind a wire that is cut, delayed and doubled: lost answers, late requests, a server that dies."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ray_workers.messages import RankState, StagedPart, StagedShard
from ray_workers.store import s3
from ray_workers.store.attempts import read_run, start_attempt
from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import (
    FenceLostError,
    OutcomeUnknownError,
    StoreUnavailableError,
)
from ray_workers.store.keys import DataKey, data_fence
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import Progress
from ray_workers.store.s3 import S3Store
from ray_workers.store.s3_settings import S3Limits
from ray_workers.uploader import Uploader
from tests.support.ceph import CephCluster
from tests.support.factories import MadeUpRun
from tests.support.simulation.inspection import check_everything
from tests.support.simulation.processes import Process, Program, run_alone
from tests.support.simulation.programs import attempt, validates
from tests.support.simulation.world import seed_ids, simulated
from tests.support.wire_proxy import WireFault, WireProxy, WireRequest, once, wire_proxy

pytestmark = [pytest.mark.s3, pytest.mark.fault]

MIB = 1 << 20
PATIENCE_S = 400.0
PATIENT = S3Limits(connect_s=5, quick_s=20, bulk_s=60, retry_s=1, retries=1)
HASTY = S3Limits(connect_s=5, quick_s=1, bulk_s=5, retry_s=1, retries=0)

PERFORMED = (
    WireFault.LOSE_ANSWER,
    WireFault.CUT_ANSWER,
    WireFault.ERROR_AFTER,
    WireFault.TWICE,
)
NOT_PERFORMED = (
    WireFault.CUT_BEFORE,
    WireFault.CUT_REQUEST,
    WireFault.THROTTLED,
    WireFault.CONFLICT,
)


@pytest.fixture
def wire(s3_server) -> Iterator[WireProxy]:
    with wire_proxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def connect(s3_server, s3_bucket):
    """A store at the bucket, through another endpoint if one is given."""

    def connected(endpoint=None, limits=PATIENT, root="root"):
        credentials = S3Credentials(
            access_key_id=s3_server.access_key,
            secret_access_key=s3_server.secret_key,
            endpoint_url=endpoint or s3_server.endpoint,
            region=s3_server.region,
        )
        return S3Store(s3_bucket, root, credentials, limits)

    return connected


def started(store, **rest):
    made = MadeUpRun(store=store, name="run", ranks=1, **rest)
    made.start()
    return made


def test_a_commit_whose_answer_is_lost_stands_once_and_is_known_by_its_write_id(wire, connect):
    """The client cannot tell any of these from each other; the log can."""
    made = started(connect(wire.url))
    for number, fault in enumerate((*PERFORMED, *NOT_PERFORMED), start=1):
        wire.plan = once("/log/", fault)
        assert made.commit(10 * number) == number
        assert wire.injured[-1][1] is fault
    seen = read_run(connect(), "run")
    assert [v.step for v in reversed(seen.newest_first())] == [10 * n for n in range(1, 9)]
    assert (seen.slot, seen.damaged) == (3 + 8, ())


def test_a_commit_that_arrives_after_the_next_attempt_began_counts_for_nobody(wire, connect):
    made = started(connect(wire.url, HASTY))
    made.commit(10)
    made.log._patience_s = 0.0
    wire.plan = lambda r: WireFault.LATE if r.method == "PUT" and "/log/" in r.target else None
    with pytest.raises(OutcomeUnknownError):
        made.commit(20)
    wire.plan = lambda _: None
    log = RunLog(connect(), "run", by={})
    fence = start_attempt(log, flow_run_id="next", run_count=1)
    assert set(wire.land()) == {412}
    assert list(read_run(connect(), "run").versions) == [1]
    with pytest.raises(FenceLostError):
        made.commit(30)
    assert read_run(connect(), "run").open_fence == fence


def test_a_commit_that_arrives_before_the_next_attempt_is_a_version(wire, connect):
    """Which is why nobody said that it had failed."""
    made = started(connect(wire.url, HASTY))
    made.log._patience_s = 0.0
    wire.plan = lambda r: WireFault.LATE if r.method == "PUT" and "/log/" in r.target else None
    with pytest.raises(OutcomeUnknownError):
        made.commit(10)
    wire.plan = lambda _: None
    statuses = wire.land()
    assert statuses[0] == 200
    assert set(statuses[1:]) <= {412}
    [version] = read_run(connect(), "run").versions.values()
    assert version.step == 10


def test_a_record_that_was_performed_and_then_refused_is_not_called_unwritten(wire, connect):
    """A gateway's 500 hides a success; before the client's own retry the key lost its right to write."""
    made = started(connect(wire.url))
    answers = itertools.chain([WireFault.ERROR_AFTER], itertools.repeat(WireFault.FORBIDDEN))

    def plan(request: WireRequest) -> WireFault | None:
        return next(answers) if request.method == "PUT" and "/log/" in request.target else None

    wire.plan = plan
    with pytest.raises(OutcomeUnknownError):
        made.commit(10)
    assert [v.step for v in read_run(connect(), "run").versions.values()] == [10]


@pytest.mark.parametrize(
    ("part", "method", "fault"),
    [
        ("uploadId", "POST", WireFault.LOSE_ANSWER),
        pytest.param("uploads", "POST", WireFault.LOSE_ANSWER, marks=pytest.mark.slow),
        pytest.param("partNumber=2", "PUT", WireFault.LOSE_ANSWER, marks=pytest.mark.slow),
        pytest.param("partNumber=2", "PUT", WireFault.CUT_REQUEST, marks=pytest.mark.slow),
    ],
)
def test_an_upload_in_parts_is_whole_or_told_to_have_failed(
    wire, connect, monkeypatch, part, method, fault
):
    monkeypatch.setattr(s3, "_PART_BYTES", 5 * MIB)
    data = np.random.default_rng(0).bytes(12 * MIB)
    wire.plan = once(part, fault, method=method)
    store = connect(wire.url)
    told = "whole"
    try:
        store.put("shard", data)
    except StoreUnavailableError:
        told = "failed"
        store.put("shard", data)
    assert wire.injured, "the fault never befell a request"
    assert connect().get("shard") == data, told


@pytest.mark.slow
def test_a_server_killed_in_mid_upload_and_started_again(
    ceph: CephCluster, wire, connect, monkeypatch, tmp_path
):
    """The shard goes up again under another key; the first try is found and counted, and nothing refers to it."""
    monkeypatch.setattr(s3, "_PART_BYTES", 5 * MIB)
    data = np.random.default_rng(0).bytes(12 * MIB)
    killed = threading.Event()

    def plan(request: WireRequest) -> None:
        if "partNumber=2" in request.target and not killed.is_set():
            ceph.kill_gateway()
            killed.set()

    wire.plan = plan
    uploader = Uploader(connect(wire.url), "run", tries=60)
    with ThreadPoolExecutor(1) as pool:
        upload = pool.submit(uploader.upload, _staged(tmp_path, data), 2)
        assert killed.wait(PATIENCE_S)
        ceph.start_gateway()  # in this thread: a daemon ends with the thread that started it
        [entry] = upload.result(PATIENCE_S).entries
    direct = connect()
    assert direct.get(entry.key) == data
    assert data_fence(entry.key) == DataKey("run", 2)
    left = [item.key for item in direct.leftovers("runs/")]
    objects = [info.key for info in direct.list("runs/")]
    assert objects.count(entry.key) == 1
    assert entry.key not in left
    assert all(data_fence(key) == DataKey("run", 2) for key in (*left, *objects))


ONCE = [fault for fault in WireFault if fault is not WireFault.FORBIDDEN]
EVERY = 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fault", ONCE, ids=[fault.name for fault in ONCE])
def test_whatever_request_of_an_attempt_suffers_the_log_tells_the_truth(wire, connect, fault):
    """The oracle looks at the server's own bytes: what the client was told must be true of them.

    Each fault befalls every third request, so that every request suffers from some of them.
    """
    limits = HASTY if fault is WireFault.HOLD_ANSWER else PATIENT
    with simulated():
        seed_ids(0)
        requests = _play(wire, connect, limits, "clean")
        assert requests > 20
        chosen = range(1 + ONCE.index(fault) % EVERY, requests + 1, EVERY)
        for number in chosen:
            seed_ids(number)
            wire.plan = _nth(wire, number, fault)
            _play(wire, connect, limits, f"case-{number}")
    # A client that waits before it reads again may ask less often than in the clean play.
    assert len(wire.injured) >= len(chosen) - 2


def _nth(wire: WireProxy, number: int, fault: WireFault):
    wanted = len(wire.requests) + number
    return lambda request: fault if request.number == wanted else None


def _play(wire: WireProxy, connect, limits: S3Limits, root: str) -> int:
    """An attempt and its validator through the wire, then the oracle beside it; how many requests they made."""
    before = len(wire.requests)
    through, direct = connect(wire.url, limits, root), connect(root=root)
    programs: list[Program] = [functools.partial(attempt, flow="flow", versions=2), validates]
    processes = [Process(str(number), program) for number, program in enumerate(programs)]
    for process in processes:
        run_alone(process, through, None, {})
    made = len(wire.requests) - before
    wire.plan = lambda _: None
    wire.land()
    check_everything(direct, processes, set())
    return made


def _staged(folder: Path, data: bytes) -> StagedShard:
    path = folder / "staged"
    path.write_bytes(data)
    return StagedShard(
        rank=0, world_size=1, progress=Progress(step=1, epoch=0, finished=False), payload="state", path=str(path),
        parts=(StagedPart(begin=0, bytes=len(data), layout={}),), state=RankState(rank_plain=None), staged_s=0.0,
    )  # fmt: skip
