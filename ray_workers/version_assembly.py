"""What the ranks report of one step, put together: the manifest of the version, and what is told of it afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ray_workers.messages import ShardReport
from ray_workers.store.clock import utc_now
from ray_workers.store.commit import CommittedVersion
from ray_workers.store.layout import merge_layouts
from ray_workers.store.manifest import FileEntry, Manifest, VersionRef

__all__ = ["AttemptIdentity", "assemble_manifest", "committed_facts", "committed_sentence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptIdentity:
    """The attempt on whose behalf versions are committed."""

    run: str
    run_id: str
    fence: int
    parent: VersionRef | None
    """The resume point, until the first commit."""
    config: Mapping[str, Any]
    by: Mapping[str, Any]


def assemble_manifest(
    attempt: AttemptIdentity, parent: VersionRef | None, reports: list[ShardReport]
) -> Manifest:
    """The manifest of a version whose shards are all durable.

    Args:
        attempt: on whose behalf it is committed.
        parent: the version that training went on from.
        reports: one of each rank, in the order of ranks; rank 0's speaks for what is the same on all.
    """
    lead = reports[0].staged
    return Manifest(
        payload=lead.payload,  # type: ignore[arg-type] # checked by Manifest
        run_id=attempt.run_id,
        fence=attempt.fence,
        write_id=uuid.uuid4().hex,
        created_at=utc_now(),
        parent=parent,
        progress=lead.progress,
        metrics=dict(lead.state.metrics),
        curve=dict(lead.state.curve),
        config=dict(attempt.config),
        world_size=lead.world_size,
        environment=dict(lead.state.environment),
        plain=lead.state.plain,
        rank_plain=tuple(r.staged.state.rank_plain for r in reports)
        if lead.payload == "state"
        else (),
        tensors=merge_layouts([part.layout for r in reports for part in r.staged.parts]),
        files=tuple(
            FileEntry(path=f.path, shard=index, name=f.name, bytes=f.bytes)
            for index, report in zip(_first_shards(reports), reports, strict=True)
            for f in report.staged.state.files
        ),
        shards=tuple(entry for report in reports for entry in report.entries),
        durations={
            **lead.state.timings,
            "staging_s": max(r.staged.staged_s for r in reports),
            "upload_s": max(r.upload_s for r in reports),
            "durable_s": max(r.took_s for r in reports),
        },
    )


def _first_shards(reports: list[ShardReport]) -> list[int]:
    """Index in the manifest of each rank's first shard."""
    return [0, *accumulate(len(report.entries) for report in reports)][:-1]


def committed_facts(
    done: CommittedVersion, manifest: Manifest, reports: list[ShardReport]
) -> dict[str, Any]:
    """Details of the event that tells of the commit: seconds, bytes, names."""
    timings = reports[0].staged.state.timings
    return {
        **{name: timings.get(name) for name in ("interval_s", "last_save_cost_s", "mtbf_s")},
        "number": done.number,
        "manifest": done.manifest,
        "step": done.step,
        "epoch": manifest.progress.epoch,
        "epochs_wanted": manifest.progress.epochs_wanted,
        "bytes": done.bytes,
        "bytes_new": done.bytes_new,
        "metrics": dict(manifest.metrics),
        "upload_s": max(r.upload_s for r in reports),
        "staging_s": max(r.staged.staged_s for r in reports),
        "durable_s": max(r.took_s for r in reports),
    }


def committed_sentence(
    done: CommittedVersion, manifest: Manifest, reports: list[ShardReport]
) -> str:
    """The line in the log: when, how large, how fast, and what it cost training."""
    seconds = max(r.upload_s for r in reports)
    rate = done.bytes_new / seconds / 1e6 if seconds > 0 else 0.0
    known = done.bytes - done.bytes_new
    sent = f", of which {done.bytes_new / 1e6:.2f} MB sent" if known else ""
    return (
        f"Version {done.number} committed: step {done.step}, epoch {manifest.progress.epoch}, "
        f"{done.bytes / 1e6:.2f} MB{sent} in {seconds:.2f} s ({rate:.1f} MB/s), training stood still for "
        f"{1e3 * max(r.staged.staged_s for r in reports):.1f} ms"
    )
