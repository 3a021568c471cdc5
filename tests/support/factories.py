"""Small made-up runs in a real store, committed the way training commits them, without training or torch."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_workers.store import keys
from ray_workers.store.attempts import create_run, end_attempt, start_attempt, this_process
from ray_workers.store.bodies import (
    Body,
    ForkPin,
    PassedOver,
    ResumeChosen,
    RunOrigin,
    Tagged,
    Verdict,
    VersionName,
)
from ray_workers.store.checksum import digest_of
from ray_workers.store.clock import utc_now
from ray_workers.store.commit import Base, commit_version
from ray_workers.store.layout import Chunk, TensorLayout, merge_layouts
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import Curve, Manifest, Progress, ShardEntry, VersionRef
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import open_root
from ray_workers.store.run_state import VersionState
from ray_workers.store.shards import arrange, build_header
from ray_workers.store.versions import load_manifest

__all__ = ["MadeUpRun", "flip_byte", "folder_store"]


def folder_store(folder: Path) -> ObjectStore:
    """A new root in a folder."""
    return open_root(str(folder), create=True).store


def flip_byte(folder: Path, key: str, at: int = -20) -> None:
    """Damage a stored object in place."""
    path = folder / key
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


@dataclass(slots=True, kw_only=True)
class MadeUpRun:
    """Writes one run; its calls are the records of its log, in order."""

    store: ObjectStore
    name: str = "digits"
    ranks: int = 2
    log: RunLog = field(init=False)
    fence: int = field(init=False, default=0)
    series: list[tuple[int, float]] = field(init=False, default_factory=list)
    """Step and loss since the run began, as the training state carries it."""
    told: dict[str, str] = field(init=False, default_factory=dict)
    """What the next versions say of their environment besides."""
    durations: dict[str, float] = field(init=False, default_factory=dict)
    """And of their durations."""

    def __post_init__(self) -> None:
        self.log = create_run(self.store, self.name, by=this_process())

    def start(
        self, resume: int | None = None, *, passed_over: Mapping[int, str] | None = None
    ) -> int:
        """A new attempt that resumes from version `resume` of this run (None: from nothing); returns the fence."""
        self.log.refresh()
        run_count = len(self.log.state.attempts) + 1
        self.fence = start_attempt(self.log, flow_run_id="flow-1", run_count=run_count)
        skipped = (passed_over or {}).items()
        self.append(
            ResumeChosen(
                fence=self.fence,
                version=None if resume is None else self.version(resume).name,
                passed_over=tuple(
                    PassedOver(version=self.version(n).name, reason=why) for n, why in skipped
                ),
                required="committed",
            )
        )
        step = 0 if resume is None else self.version(resume).step
        self.series = [point for point in self.series if point[0] <= step]
        return self.fence

    def commit(  # noqa: PLR0913 - a form
        self,
        step: int,
        *,
        metrics: Mapping[str, float] | None = None,
        config: Mapping[str, Any] | None = None,
        content: float = 1.0,
        epoch: int = 0,
        curve: Mapping[str, Curve] | None = None,
        base: int | None = None,
    ) -> int:
        """Steps up to `step`, then a version of one small tensor a rank, all of value `content`; returns its number.

        With a `base`, rank 0's shard is that version's, and only the others are stored.
        """
        done = self.series[-1][0] if self.series else 0
        self.series += [(at, 1.0 / at) for at in range(done + 1, step + 1)]
        built_on = None if base is None else self._base(base)
        shards = [] if built_on is None else [built_on.shards[0]]
        shards += [self._shard(rank, content) for rank in range(len(shards), self.ranks)]
        manifest = Manifest(
            payload="state",
            run_id=str(self.log.state.run_id),
            fence=self.fence,
            write_id=uuid.uuid4().hex,
            created_at=utc_now(),
            parent=self._parent(),
            progress=Progress(step=step, epoch=epoch, finished=False, epochs_wanted=3),
            metrics={"loss": 1.0 / step} if metrics is None else metrics,
            curve={"loss": self._curve()} if curve is None else curve,
            config={"lr": 0.1} if config is None else config,
            world_size=self.ranks,
            environment={"python": "3.11", **self.told},
            tensors=_layouts(self.ranks),
            shards=tuple(shards),
            durations={"staging_s": 0.25, "upload_s": 0.5, **self.durations},
        )
        return commit_version(self.store, self.log, manifest, base=built_on).number

    def end(self, outcome: str = "completed", reason: str | None = None) -> None:
        end_attempt(self.log, self.fence, outcome, reason)

    def judge(self, *numbers: int, check: str = "sound", reason: str | None = None) -> None:
        """A verdict on versions: passed, or failed for `reason`."""
        names = tuple(self.version(number).name for number in numbers)
        self.append(
            Verdict(
                versions=names, check=check, passed=reason is None, reason=reason, checker="test"
            )
        )

    def tag(self, name: str, number: int) -> None:
        self.append(Tagged(name=name, version=self.version(number).name, expects=None))

    def fork(self, number: int, child: str) -> MadeUpRun:
        """A new run that starts from version `number` of this one, its first attempt begun."""
        child_id = uuid.uuid4().hex
        name = self.version(number).name
        self.append(ForkPin(child=child, child_run_id=child_id, version=name))
        origin = RunOrigin(run=self.name, run_id=str(self.log.state.run_id), version=name)
        create_run(self.store, child, by=this_process(), origin=origin, run_id=child_id)
        made = MadeUpRun(store=self.store, name=child, ranks=self.ranks)
        made.fence = start_attempt(made.log, flow_run_id="flow-2", run_count=1)
        made.append(
            ResumeChosen(fence=made.fence, version=name, origin=origin, required="committed")
        )
        made.series = [point for point in self.series if point[0] <= self.version(number).step]
        return made

    def append(self, body: Body) -> None:
        self.log.append(lambda _: body)

    def version(self, number: int) -> VersionState:
        return self.log.refresh().versions[number]

    def manifest_key(self, number: int) -> str:
        version = self.version(number)
        return keys.manifest_key(self.name, version.fence, version.manifest)

    def shard_keys(self, number: int) -> Sequence[str]:
        data = self.store.get(self.manifest_key(number))
        return [entry.key for entry in Manifest.from_bytes(data).shards]

    def _base(self, number: int) -> Base:
        version = self.version(number)
        shards = load_manifest(self.store, self.name, version).shards
        return Base(name=version.name, shards=shards, reused=frozenset({shards[0].key}))

    def _shard(self, rank: int, content: float) -> ShardEntry:
        data = build_header(arrange([(_tensor(rank), "F32", (4,))])) + struct.pack(
            "<4f", *[content] * 4
        )
        key = keys.new_shard_key(self.name, self.fence)
        self.store.put(key, data)
        return ShardEntry(rank=rank, key=key, bytes=len(data), digest=digest_of(data))

    def _parent(self) -> VersionRef | None:
        attempt = self.log.refresh().attempts[self.fence]
        if attempt.last_commit is not None:
            return _ref(None, self.version(attempt.last_commit).name)
        if attempt.resume is None:
            return None
        origin = attempt.resume_origin
        return _ref(None if origin is None else origin.run, attempt.resume)

    def _curve(self) -> Curve:
        points = self.series[-400:]
        return Curve(steps=tuple(s for s, _ in points), values=tuple(v for _, v in points))


def _ref(run: str | None, name: VersionName) -> VersionRef:
    return VersionRef(run=run, number=name.number, digest=name.manifest)


def _tensor(rank: int) -> str:
    return f"shared/model/weight{rank}"


def _layouts(ranks: int) -> dict[str, TensorLayout]:
    return merge_layouts(
        [
            {
                _tensor(rank): TensorLayout(
                    dtype="F32",
                    shape=(4,),
                    chunks=(Chunk(offsets=(0,), shape=(4,), shard=0, name=_tensor(rank)),),
                )
            }
            for rank in range(ranks)
        ]
    )
