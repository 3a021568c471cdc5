"""What an attempt's next version builds on: the version before it, whose shards it may name instead of storing them."""

from __future__ import annotations

from dataclasses import replace

from ray_workers.store.attempts import resumed_from
from ray_workers.store.bodies import VersionName
from ray_workers.store.commit import Base, CommittedVersion
from ray_workers.store.errors import RuleRefusedError
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import Manifest, VersionRef
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.versions import load_manifest
from ray_workers.version_assembly import AttemptIdentity

__all__ = ["Bases"]


class Bases:
    """The newest version of one writer, or what its attempt goes on from.

    Args:
        store: where the run lives.
        log: the run's log.
        attempt: whose versions they are.
    """

    def __init__(self, store: ObjectStore, log: RunLog, attempt: AttemptIdentity) -> None:
        self._store = store
        self._log = log
        self._attempt = attempt
        self._parent: VersionRef | None = None
        self._last: Base | None = None

    def committed(self, done: CommittedVersion, manifest: Manifest | None) -> None:
        """This writer's newest version; `manifest`: None when what it names is not at hand, so that nothing builds on it."""
        self._parent = VersionRef(run=None, number=done.number, digest=done.manifest)
        self._last = None
        if manifest is not None:
            name = VersionName(number=done.number, manifest=done.manifest)
            self._last = Base(name=name, shards=manifest.shards, reused=frozenset())

    def parent(self) -> VersionRef | None:
        """The version that training went on from."""
        return self._parent or self._resume_point()

    def naming(self, reused: frozenset[str]) -> Base | None:
        """The version that holds all of these keys: this writer's last, or the one that its attempt goes on from.

        Raises:
            RuleRefusedError: neither does.
        """
        if not reused:
            return None
        if _holds(self._last, reused):
            return self._last and replace(self._last, reused=reused)
        resumed = self._resumed()
        if _holds(resumed, reused):
            return resumed and replace(resumed, reused=reused)
        raise RuleRefusedError(
            "shards of an earlier version are named that neither this attempt's last version nor the one resumed from "
            "holds; the next save sends everything",
            rule="Commit",
        )

    def _resumed(self) -> Base | None:
        point = self._resume_point()
        if point is None or point.run is not None:
            return None
        version = self._log.state.find(VersionName(number=point.number, manifest=point.digest))
        if version is None or not version.readable:
            return None
        shards = load_manifest(self._store, self._attempt.run, version).shards
        return Base(name=version.name, shards=shards, reused=frozenset())

    def _resume_point(self) -> VersionRef | None:
        """What the workers restored: they may have left the version that the attempt began with.

        The successor of a checkpoint actor that died chose nothing itself: it goes on from the attempt's last version.
        """
        return resumed_from(self._log.refresh(), self._attempt.fence) or self._attempt.parent


def _holds(base: Base | None, reused: frozenset[str]) -> bool:
    return base is not None and reused <= {shard.key for shard in base.shards}
