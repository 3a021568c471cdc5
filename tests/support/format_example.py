"""The small store that FORMAT.md shows, made by the code: every object of it by key, the same bytes at every call."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence

from ray_workers.store import keys
from ray_workers.store.bodies import (
    AttemptEnded,
    AttemptStarted,
    Body,
    Commit,
    ResumeChosen,
    RunCreated,
    Tagged,
    Verdict,
    VersionName,
)
from ray_workers.store.checksum import digest_of
from ray_workers.store.layout import Chunk, TensorLayout, merge_layouts
from ray_workers.store.manifest import Curve, Manifest, Progress, ShardEntry, check_coverage
from ray_workers.store.records import Author, Place, Record, canonical_json
from ray_workers.store.shards import arrange, build_header

__all__ = ["RUN", "example_objects"]

RUN = "demo"
_FENCE = 2
_WEIGHT = "shared/model/weight"
_BIAS = "shared/model/bias"


def _id(what: str) -> str:
    """Looks like a random id, and is the same each time."""
    return hashlib.sha256(f"pawl example {what}".encode()).hexdigest()[:32]


_RUN_ID = _id("run")


def example_objects() -> dict[str, bytes]:
    """Key to bytes of the whole store: two ranks, one version, its verdicts and a tag."""
    root = {"format": 1, "kind": "local", "root_id": _id("root")}
    shards = dict(_shards())
    entries = [
        ShardEntry(rank=rank, key=key, bytes=len(data), digest=digest_of(data))
        for rank, (key, data) in enumerate(shards.items())
    ]
    manifest = _manifest(entries)
    check_coverage(manifest)
    log = {
        keys.log_key(RUN, record.slot): record.to_bytes() for record in _records(_bodies(manifest))
    }
    return {
        keys.ROOT_KEY: canonical_json(root),
        **log,
        keys.manifest_key(RUN, _FENCE, manifest.digest): manifest.to_bytes(),
        **shards,
    }


def _shards() -> Iterator[tuple[str, bytes]]:
    """Each rank holds two rows of the weight and its own random state; rank 0 the bias too."""
    rows = [struct.pack("<4f", 0.0, 0.5, 1.0, 1.5), struct.pack("<4f", 2.0, 2.5, 3.0, 3.5)]
    bias = struct.pack("<2f", -1.0, 0.0)
    for rank in range(2):
        contents = {_WEIGHT: rows[rank], f"rank/{rank}/rng": bytes([7, rank, 9])}
        specs = [(_WEIGHT, "F32", (2, 2)), (f"rank/{rank}/rng", "U8", (3,))]
        if rank == 0:
            contents[_BIAS] = bias
            specs.append((_BIAS, "F32", (2,)))
        placed = arrange(specs)
        key = f"runs/{RUN}/shards/{_FENCE:020d}/{_id(f'shard {rank}')}.safetensors"
        yield key, build_header(placed) + b"".join(contents[tensor.name] for tensor in placed)


def _layouts() -> list[dict[str, TensorLayout]]:
    def whole(dtype: str, shape: tuple[int, ...], name: str) -> TensorLayout:
        chunk = Chunk(offsets=(0,) * len(shape), shape=shape, shard=0, name=name)
        return TensorLayout(dtype=dtype, shape=shape, chunks=(chunk,))

    def row(rank: int) -> TensorLayout:
        chunk = Chunk(offsets=(2 * rank, 0), shape=(2, 2), shard=0, name=_WEIGHT)
        return TensorLayout(dtype="F32", shape=(4, 2), chunks=(chunk,))

    return [
        {
            _WEIGHT: row(0),
            _BIAS: whole("F32", (2,), _BIAS),
            "rank/0/rng": whole("U8", (3,), "rank/0/rng"),
        },
        {_WEIGHT: row(1), "rank/1/rng": whole("U8", (3,), "rank/1/rng")},
    ]


def _manifest(entries: Sequence[ShardEntry]) -> Manifest:
    return Manifest(
        payload="state",
        run_id=_RUN_ID,
        fence=_FENCE,
        write_id=_id("manifest"),
        created_at="2026-11-24T09:00:03.250+00:00",
        parent=None,
        progress=Progress(step=20, epoch=1, finished=True, epochs_wanted=1),
        world_size=2,
        shards=tuple(entries),
        metrics={"loss": 0.125, "accuracy": float("nan")},
        curve={"loss": Curve(steps=(10, 20), values=(0.5, 0.125))},
        config={"epochs": 1, "lr": 0.001},
        environment={"python": "3.11.2", "torch": "2.13.0"},
        plain={"model": {"bias": {"$tensor": _BIAS}, "weight": {"$tensor": _WEIGHT}}},
        rank_plain=tuple(
            {"data": {"$tuple": [1, 0]}, "rng": {"$tensor": f"rank/{rank}/rng"}}
            for rank in range(2)
        ),
        tensors=merge_layouts(_layouts()),
        durations={"staging_s": 0.01, "upload_s": 0.05},
    )


def _bodies(manifest: Manifest) -> list[Body]:
    name = VersionName(number=1, manifest=manifest.digest)
    size = len(manifest.to_bytes()) + sum(entry.bytes for entry in manifest.shards)
    return [
        RunCreated(run_id=_RUN_ID),
        AttemptStarted(flow_run_id=_id("flow run"), run_count=1, incarnation=0),
        ResumeChosen(fence=_FENCE, version=None, required="sound"),
        Commit(fence=_FENCE, number=1, manifest=manifest.digest, step=20, bytes=size),
        Verdict(versions=(name,), check="verified", passed=True, checker="example"),
        Verdict(
            versions=(name,),
            check="sound",
            passed=True,
            evidence={"parameter_norm": 6.0},
            checker="example",
        ),
        Tagged(name="release", version=name, expects=None),
        AttemptEnded(fence=_FENCE, outcome="completed"),
    ]


def _records(bodies: Sequence[Body]) -> Iterator[Record]:
    head: str | None = None
    for slot, body in enumerate(bodies, start=1):
        record = Record.seal(
            body,
            place=Place(slot=slot, run_id=_RUN_ID, prev=head),
            author=Author(
                write_id=_id(f"write {slot}"),
                by={"host": "trainer-1", "pid": 4711},
                at=f"2026-11-24T09:00:{slot:02d}.000+00:00",
            ),
        )
        head = record.digest
        yield record
