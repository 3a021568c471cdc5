"""The oracle: a run as its log says it is, told again in the plainest way and without any code of the store.

It goes through the records from the first to the last and holds each against what the log said just before it. It reads
no cache, keeps every number it ever saw, and stops at the first thing that must never happen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["BrokenError", "Invariant", "OracleRun", "OracleVersion"]


class Invariant(StrEnum):
    """What must hold, in the words of the design and the format."""

    COMMIT_STAYS = "a commit that was reported is in the log, and a fresh process can restore it"
    FAILED_STAYS_OUT = "a commit that was reported as failed never counts"
    FENCED = "an attempt that lost its fence commits and chooses nothing"
    RUNG = "a version below the required rung is not resumed, and none is passed over in silence"
    NEWEST_KEPT = "no protected version is given up: the newest, the sound, the tagged, the pinned, the resumed"
    WHOLE = "every object of a version that is not given up is there, byte for byte"
    NO_FALSE_ALARM = "no good version is quarantined for its bytes, and no bad one passes"
    NAMES = "numbers are given once, steps rise, tags move only from where they were"
    NEVER_REWRITTEN = "no record is rewritten or deleted, no upload key is used twice"
    ATTEMPTS_DELETE_NOTHING = "a training attempt deletes nothing"
    USABLE = "whatever happened, a new attempt gets its fence, resumes the newest good version and commits"
    SAME_FOLD = "every reader makes the same of the log, with and without caches"
    OWN_ERRORS = "whatever happens, a process ends with an error of ours, and it ends"


class BrokenError(AssertionError):
    """An invariant does not hold."""

    def __init__(self, invariant: Invariant, detail: str) -> None:
        super().__init__(f"{invariant.value}: {detail}")
        self.invariant = invariant
        self.detail = detail


@dataclass(slots=True)
class OracleVersion:
    number: int
    digest: str
    fence: int
    step: int
    status: str = "live"
    abandoned: bool = False
    quarantined: bool = False
    bad_bytes: bool = False
    passed: set[str] = field(default_factory=set)
    evidence_bad: bool = False
    """Some verdict said that its bytes are bad, lifted or not."""
    evidence_good: bool = False
    """Some verdict said that every byte was read and right."""

    @property
    def kept(self) -> bool:
        return self.status in ("live", "retired")

    @property
    def sound(self) -> bool:
        return not self.quarantined and bool(self.passed & {"sound", "restorable"})

    @property
    def candidate(self) -> bool:
        return self.kept and not self.abandoned and not self.quarantined


_RUNGS = ("committed", "verified", "sound", "restorable")


class OracleRun:
    """Follows one log. `records` are the decoded slots; None stands for bytes that are no record."""

    def __init__(self, *, starts: Collection[int] = (), before: int = 0) -> None:
        self.slot = 0
        self.starts = starts
        """Slots that some process knows to have held its AttemptStarted, readable or not."""
        self.before = before
        """The last slot that was there when the trouble began."""
        self.versions: dict[int, OracleVersion] = {}
        self.tags: dict[str, int] = {}
        self.pins: dict[str, int] = {}
        self.holders: set[int] = set()
        """The fence that may commit; more than one only while a damaged slot hides which."""
        self.attempts: dict[int, dict[str, Any]] = {}
        self.damaged: list[int] = []
        self.unrepaired: set[int] = set()
        self.deleted = False
        self.exists = False
        self.run_id = ""
        self.origin: Mapping[str, Any] | None = None
        self.highest = 0
        self.commits: set[str] = set()
        """Manifest digests of all that was ever committed, before a deletion too."""
        self.write_ids: set[str] = set()

    def follow(self, records: Sequence[Mapping[str, Any] | None]) -> None:
        """Raises `BrokenError`."""
        for record in records:
            self.slot += 1
            if record is None or record["kind"] == "Filler":
                self._lost()
                continue
            self.write_ids.add(record["write_id"])
            if record["run_id"] != self.run_id and record["kind"] != "RunCreated":
                self._begun_unseen()
            self.run_id = record["run_id"]
            getattr(self, f"_{record['kind']}")(record["body"])

    def candidates(self) -> list[OracleVersion]:
        """What may be resumed, newest first, its rung aside."""
        newest = sorted(self.versions.values(), key=lambda v: -v.number)
        return [v for v in newest if v.candidate]

    def protected(self) -> set[int]:
        kept = [
            v for _, v in sorted(self.versions.items(), reverse=True) if v.kept and not v.abandoned
        ]
        good = [v.number for v in kept if not v.quarantined]
        sound = [v.number for v in kept if v.sound]
        restorable = [v.number for v in kept if v.sound and "restorable" in v.passed]
        newest_sound = sound[0] if sound else 0
        waiting = [n for n in good if n not in sound and n > newest_sound]
        found = {*good[:1], *sound[:2], *restorable[:1], *waiting[:1], *waiting[-1:]}
        found |= {*self.tags.values(), *self.pins.values()}
        for fence in self.holders:
            attempt = self.attempts.get(fence, {})
            found |= {attempt[name] for name in ("resume", "last") if name in attempt}
        return found

    # --- the records ------------------------------------------------------------------------------------------

    def _lost(self) -> None:
        """It may have held anything: a start, a verdict taken back, a commit."""
        self.damaged.append(self.slot)
        self.unrepaired.add(self.slot)
        self.holders = {self.slot} if self.slot in self.starts else {*self.holders, self.slot}
        for version in self.versions.values():
            version.passed.clear()

    def _RunCreated(self, body: Mapping[str, Any]) -> None:  # noqa: N802 - the kind's own name
        if self.exists and not self.damaged:
            raise BrokenError(Invariant.NAMES, f"slot {self.slot} creates a run that exists")
        self._begin(body["origin"])

    def _begun_unseen(self) -> None:
        """What created the run that the next record is of cannot be read any more; nothing of an older one counts for it."""
        if self.run_id and not (self.deleted and self.slot - 1 in self.damaged):
            raise BrokenError(
                Invariant.SAME_FOLD, f"slot {self.slot} is of a run that nothing created"
            )
        self._begin(None)

    def _begin(self, origin: Mapping[str, Any] | None) -> None:
        self.exists, self.deleted, self.origin = True, False, origin
        self.versions, self.tags, self.pins, self.attempts = {}, {}, {}, {}
        self.holders = set()

    def _AttemptStarted(self, body: Mapping[str, Any]) -> None:  # noqa: N802
        place = (body["run_count"], body["incarnation"])
        for fence, other in self.attempts.items():
            if other["flow"] == body["flow_run_id"] and other["place"] >= place:
                raise BrokenError(Invariant.FENCED, f"slot {self.slot} starts behind fence {fence}")
        self.attempts[self.slot] = {"flow": body["flow_run_id"], "place": place, "step": -1}
        self.holders = {self.slot}

    def _AttemptAdopted(self, body: Mapping[str, Any]) -> None:  # noqa: N802
        self._own(body["fence"])

    def _AttemptEnded(self, body: Mapping[str, Any]) -> None:  # noqa: N802
        self._own(body["fence"])
        self.holders = set()

    def _ResumeChosen(self, body: Mapping[str, Any]) -> None:  # noqa: N802
        self._own(body["fence"])
        attempt = self.attempts.setdefault(
            body["fence"], {"flow": "?", "place": (0, 0), "step": -1}
        )
        # The attempt starts from what it chose last, and from nothing else.
        attempt.pop("resume", None)
        if body["origin"] is not None:
            return
        chosen = None if body["version"] is None else self._named(body["version"])
        passed = {(item["version"]["number"]) for item in body["passed_over"]}
        floor = 0 if chosen is None else chosen.number
        newer = [v for v in self.versions.values() if v.kept and not v.abandoned]
        silent = [v.number for v in newer if v.number > floor and v.number not in passed]
        if silent and not self.damaged:
            raise BrokenError(Invariant.RUNG, f"slot {self.slot} passes over {silent} in silence")
        if chosen is None:
            return
        if not chosen.candidate:
            raise BrokenError(
                Invariant.RUNG, f"slot {self.slot} resumes version {chosen.number}: {chosen}"
            )
        rung = max((_RUNGS.index(name) for name in chosen.passed), default=0)
        if rung < _RUNGS.index(body["required"]) and not self.damaged:
            raise BrokenError(
                Invariant.RUNG, f"slot {self.slot} resumes {chosen.number} below its rung"
            )
        attempt["resume"] = chosen.number
        self._revive(chosen)

    def _Commit(self, body: Mapping[str, Any]) -> None:  # noqa: N802
        self._own(body["fence"])
        number = body["number"]
        attempt = self.attempts.setdefault(
            body["fence"], {"flow": "?", "place": (0, 0), "step": -1}
        )
        if number <= self.highest:
            raise BrokenError(Invariant.NAMES, f"slot {self.slot} gives number {number} again")
        if body["step"] <= attempt["step"]:
            raise BrokenError(Invariant.NAMES, f"slot {self.slot} goes back to step {body['step']}")
        if body["base"] is not None:
            base = self._named(body["base"])
            if not base.kept or base.bad_bytes:
                raise BrokenError(
                    Invariant.WHOLE, f"slot {self.slot} builds on version {base.number}"
                )
        self.highest = number
        attempt["step"], attempt["last"] = body["step"], number
        self.commits.add(body["manifest"])
        self.versions[number] = OracleVersion(number, body["manifest"], body["fence"], body["step"])

    def _Verdict(self, body: Mapping[str, Any]) -> None:  # noqa: N802
        for version in self._kept(body["versions"], Invariant.NO_FALSE_ALARM):
            if body["check"] == "release":
                version.quarantined, version.bad_bytes = False, False
                version.passed.clear()
            elif body["passed"]:
                version.passed.add(body["check"])
                version.evidence_good |= self.slot > self.before
            else:
                version.quarantined = True
                version.bad_bytes |= body["check"] == "bytes"
                version.evidence_bad |= body["check"] == "bytes"

    def _Tagged(self, body: Mapping[str, Any]) -> None:  # noqa: N802
        present = self.tags.get(body["name"])
        expects = None if body["expects"] is None else body["expects"]["number"]
        if present != expects and not self.damaged:
            raise BrokenError(
                Invariant.NAMES, f"slot {self.slot} moves a tag from {present}, not {expects}"
            )
        if body["version"] is None:
            self.tags.pop(body["name"], None)
            return
        [version] = self._kept([body["version"]], Invariant.NEWEST_KEPT)
        self.tags[body["name"]] = version.number
        self._revive(version)

    def _RolledBack(self, body: Mapping[str, Any]) -> None:  # noqa: N802
        self.holders = set()
        floor = 0
        if body["to"] is not None:
            [version] = self._kept([body["to"]], Invariant.NEWEST_KEPT)
            floor = version.number
        for number, version in self.versions.items():
            version.abandoned = number > floor or (version.abandoned and number != floor)

    def _ForkPin(self, body: Mapping[str, Any]) -> None:  # noqa: N802
        [version] = self._kept([body["version"]], Invariant.NEWEST_KEPT)
        self.pins[body["child_run_id"]] = version.number
        self._revive(version)

    def _ForkReleased(self, body: Mapping[str, Any]) -> None:  # noqa: N802
        self.pins.pop(body["child_run_id"], None)

    def _Retire(self, body: Mapping[str, Any]) -> None:  # noqa: N802
        self._give_up(body["versions"], "live", "retired")

    def _Condemn(self, body: Mapping[str, Any]) -> None:  # noqa: N802
        if self.unrepaired:
            raise BrokenError(Invariant.NEWEST_KEPT, f"slot {self.slot} condemns above damage")
        self._give_up(body["versions"], "retired", "condemned")

    def _Swept(self, body: Mapping[str, Any]) -> None:  # noqa: N802
        for name in body["versions"]:
            version = self._named(name)
            if version.status not in ("condemned", "swept"):
                raise BrokenError(
                    Invariant.NEWEST_KEPT, f"slot {self.slot} sweeps {version.number}"
                )
            version.status = "swept"

    def _RunDeleted(self, _: Mapping[str, Any]) -> None:  # noqa: N802
        if self.pins:
            raise BrokenError(Invariant.NEWEST_KEPT, f"slot {self.slot} deletes a run with forks")
        self.deleted, self.exists, self.holders = True, False, set()
        for version in self.versions.values():
            version.status = "condemned" if version.kept else version.status

    def _OriginDropped(self, _: Mapping[str, Any]) -> None:  # noqa: N802
        self.origin = None

    def _Repaired(self, body: Mapping[str, Any]) -> None:  # noqa: N802
        self.unrepaired.discard(body["slot"])

    # --- what they have in common -----------------------------------------------------------------------------

    def _own(self, fence: int) -> None:
        if fence not in self.holders:
            holders = sorted(self.holders) or "nobody"
            raise BrokenError(
                Invariant.FENCED, f"slot {self.slot} is of fence {fence}; {holders} holds it"
            )
        self.holders = {fence}

    def _named(self, name: Mapping[str, Any]) -> OracleVersion:
        version = self.versions.get(name["number"])
        if version is None and self.damaged:
            return OracleVersion(name["number"], name["manifest"], 0, 0)
        if version is None or version.digest != name["manifest"]:
            raise BrokenError(
                Invariant.NAMES, f"slot {self.slot} names {name}, which was never committed"
            )
        return version

    def _kept(
        self, names: Sequence[Mapping[str, Any]], invariant: Invariant
    ) -> list[OracleVersion]:
        found = [self._named(name) for name in names]
        for version in found:
            if not version.kept:
                detail = (
                    f"slot {self.slot} uses version {version.number}, which is {version.status}"
                )
                raise BrokenError(invariant, detail)
        return found

    def _give_up(self, names: Sequence[Mapping[str, Any]], before: str, after: str) -> None:
        protected = set() if self.damaged else self.protected()
        for name in names:
            version = self._named(name)
            if version.number in protected or version.status != before:
                detail = (
                    f"slot {self.slot} makes version {version.number}, {version.status}, {after}"
                )
                raise BrokenError(Invariant.NEWEST_KEPT, detail)
            version.status = after

    def _revive(self, version: OracleVersion) -> None:
        if version.status == "retired":
            version.status = "live"
