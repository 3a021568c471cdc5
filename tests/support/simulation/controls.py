"""The positive controls: each guard of the protocol is taken away, and the sweep has to turn red.

A control says which guard, which rule of FORMAT.md it is, how it is removed, and where the sweep looks for the harm:
in a mix of processes and faults, narrow so that a few hundred histories suffice, or in every case of one sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest

from ray_workers.store.bodies import (
    AttemptEnded,
    AttemptStarted,
    Commit,
    ResumeChosen,
    RolledBack,
    Tagged,
)
from tests.support import damage_removals as damage
from tests.support import guard_removals as removed
from tests.support import sweep_removals as swept
from tests.support.simulation.beginnings import BEGINNINGS, begin
from tests.support.simulation.enumeration import CaseError, Counts, enumerate_sequence
from tests.support.simulation.histories import HistoryError, Mix, play_history
from tests.support.simulation.oracle import Invariant
from tests.support.simulation.world import simulated

__all__ = ["CONTROLS", "Control", "Red", "turns_red"]

MOST_HISTORIES = 4000
_PLAIN = Mix()
_UNDER_WAY = ("an attempt under way", "four versions")
_FULL = ("many versions", "four versions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    guard: str
    """What holds, in a sentence."""
    rule: str
    """Where FORMAT.md says so: a section with a rule of it, or with rows of its table."""
    remove: Callable[[pytest.MonkeyPatch], None]
    mix: Mix = _PLAIN
    sequence: tuple[str, ...] = ()
    """Protocol steps; if there are any, their cases are played in place of histories."""
    cache_every: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Red:
    """How the sweep turned red."""

    seed: int
    histories: int
    """How many histories, or cases, were played up to it."""
    message: str

    @property
    def invariant(self) -> str:
        """The one that broke; empty if the history broke in another way."""
        return next((i.value for i in Invariant if f": {i.value}: " in self.message), "")


def turns_red(control: Control, seeds: Iterable[int] = range(MOST_HISTORIES)) -> Red | None:
    """The first history that breaks something without the guard; None if none does."""
    with simulated(cache_every=control.cache_every), pytest.MonkeyPatch.context() as patch:
        for name in BEGINNINGS:
            begin(name)  # with the guard
        control.remove(patch)
        if control.sequence:
            return _case_that_breaks(control.sequence)
        for count, seed in enumerate(seeds, start=1):
            try:
                play_history(seed, control.mix)
            except HistoryError as error:
                return Red(seed=seed, histories=count, message=str(error))
    return None


def _case_that_breaks(sequence: tuple[str, ...]) -> Red | None:
    counts = Counts()
    try:
        enumerate_sequence(sequence, counts)
    except CaseError as error:
        return Red(seed=0, histories=counts.total, message=str(error))
    return None


def _mix(*others: str, **rest: object) -> Mix:
    return Mix(others=tuple((name, 1) for name in others), **rest)  # type: ignore[arg-type]


_ROT = {"rot": 1.0, "fault": 0.0}
_RETAINED = _mix("retire", "collect", "validate", beginnings=_FULL)
_ANSWERS = _mix("validate", "tag", fault=0.1)

CONTROLS = (
    Control(guard="a commit needs the open fence", rule="§6 Commit", remove=removed.no_fence_check),
    Control(
        guard="a later try of a flow run is not fenced out by an earlier one",
        rule="§6 AttemptStarted", remove=removed.no_rule(AttemptStarted), mix=_mix("retry"),
    ),
    Control(
        guard="every incarnation of a writer takes a fence of its own", rule="§9, rule 3",
        remove=swept.one_fence_for_all_incarnations, mix=_mix("restart", beginnings=_UNDER_WAY),
    ),
    Control(guard="steps rise within an attempt", rule="§6 Commit", remove=removed.no_rule(Commit), mix=_mix("retry")),
    Control(
        guard="a rollback closes the open fence", rule="§5 RolledBack",
        remove=removed.fence_stays_open(RolledBack), mix=_mix("roll back"),
    ),
    Control(
        guard="the end of an attempt closes its fence", rule="§5 AttemptEnded",
        remove=removed.fence_stays_open(AttemptEnded), mix=_mix("end"),
    ),
    Control(
        guard="a base that is condemned is refused", rule="§6 Commit",
        remove=swept.condemned_bases_allowed, mix=_RETAINED,
    ),
    Control(
        guard="what a version names of an earlier one, its base names", rule="§9, rule 15",
        remove=swept.references_unchecked, mix=_mix("past its base", "collect", writers=0, beginnings=("four versions",), fault=0.0),
    ),
    Control(
        guard="a bad object is the matter of every version that names it", rule="§7, rule 11",
        remove=swept.only_the_one_looked_at, mix=_mix("scrub", "validate", **_ROT),
    ),
    Control(
        guard="an unanswered write is sent again until its slot is taken", rule="§6, rule 4",
        remove=removed.gives_up_without_answer, mix=_ANSWERS,
    ),
    Control(guard="a writer knows its own record by the write id", rule="§6, rule 3", remove=removed.never_ours, mix=_ANSWERS),
    Control(guard="a record of somebody else is not taken for one's own", rule="§6, rule 3", remove=removed.always_ours),
    Control(guard="create-if-absent is the store's own", rule="§13, rule 1", remove=swept.create_overwrites),
    Control(guard="every upload try has a key of its own", rule="§2, rule 6", remove=swept.one_key_for_all_tries),
    Control(
        guard="a record's own digest is checked", rule="§3, rule 4",
        remove=swept.record_digest_unchecked, mix=_mix("validate", "tag", **_ROT),
    ),
    Control(
        guard="a shard's digest is checked", rule="§11, rule 14",
        remove=swept.shard_digest_unchecked, mix=_mix("validate", "scrub", **_ROT),
    ),
    Control(
        guard="a manifest's digest is checked", rule="§10, rule 4",
        remove=swept.manifest_digest_unchecked, mix=_mix("validate", "scrub", **_ROT),
    ),
    Control(guard="a manifest is read back before its record", rule="§9, rule 11", remove=swept.no_read_back, mix=_mix("tag", **_ROT)),
    Control(
        guard="a bad shard is read again before it counts as bad", rule="§11, rule 14",
        remove=swept.shards_at_first_sight, mix=_mix("validate", "scrub", fault=0.1),
    ),
    Control(
        guard="a bad record is read again before it counts as damaged", rule="§3, rule 5",
        remove=swept.damage_at_first_sight, mix=_mix("validate", "tag", fault=0.1),
    ),
    Control(
        guard="a damaged slot closes the fence below it", rule="§5, rule 7",
        remove=damage.no_damage_effect("open_fence"), mix=_mix("attempt", **_ROT),
    ),
    Control(
        guard="the record above a damaged slot counts on its run id", rule="§5, rule 3",
        remove=damage.chain_is_strict, mix=_mix("attempt", "tag", **_ROT),
    ),
    Control(
        guard="the number of a damaged slot is not given again", rule="§6 Commit",
        remove=damage.numbers_go_on, mix=_mix("attempt", writers=3, **_ROT),
    ),
    Control(
        guard="nothing is condemned above damage that nobody has looked at", rule="§8, rule 2",
        remove=swept.sweeps_above_damage, mix=_mix("retire", "collect", beginnings=_FULL, **_ROT),
    ),
    Control(
        guard="above a deleted run, damage and a record of another run begin that run", rule="§5, rule 3",
        remove=damage.a_lost_creation_is_never_guessed, sequence=("delete run", "start", "start"),
    ),
    Control(
        guard="whoever condemns has folded every record itself", rule="§5, rule 15",
        remove=swept.sweepers_believe_caches, mix=_mix("sweep", beginnings=("many versions",), fault=0.0, rot=0.5), cache_every=1,
    ),
    Control(
        guard="a cache counts only for its own fold version", rule="§5, rule 14",
        remove=damage.any_fold_version, mix=_mix("older", "end", fault=0.0),
    ),
    Control(
        guard="a cache counts only if its digest holds", rule="§5, rule 14",
        remove=damage.cache_digest_unchecked, mix=_mix("tag", "validate", **_ROT), cache_every=3,
    ),
    Control(
        guard="the resume point is recorded before it is read", rule="§9, rule 17",
        remove=swept.chooses_without_a_record, mix=_RETAINED,
    ),
    Control(
        guard="a resume point has the required rung", rule="§6 ResumeChosen",
        remove=swept.any_rung_will_do, mix=_mix("validate"),
    ),
    Control(
        guard="a newer version that is passed over is named", rule="§9, rule 18",
        remove=swept.passes_over_in_silence, mix=_mix("validate", "scrub", **_ROT),
    ),
    Control(guard="a chosen version is no candidate any more: refused", rule="§6 ResumeChosen", remove=removed.no_rule(ResumeChosen), mix=_mix("validate", "scrub", "attempt", **_ROT)),
    Control(guard="a tag moves only from where it was", rule="§6 Tagged", remove=removed.no_rule(Tagged), mix=_mix("tag", beginnings=_FULL)),
    Control(
        guard="a condemned version is taken up by nobody", rule="§6 Tagged, ForkPin, Verdict",
        remove=removed.condemned_allowed, mix=_mix("retire", "collect", "tag", "validate", beginnings=_FULL),
    ),
    *(
        Control(guard=f"protected: {name}", rule=rule, remove=removed.no_protection(why), mix=mix)
        for name, rule, why, mix in [
            ("what a tag names", "§7, rule 14", "tagged", _mix("retire", "tag", beginnings=_FULL)),
            ("what a fork begins from", "§7, rule 14", "fork", _mix("retire", "fork", "attempt", "validate", beginnings=_FULL)),
            ("the resume point", "§7, rule 15", "resume point", _mix("retire", "validate", "roll back", beginnings=_FULL)),
            ("the newest version of the attempt", "§7, rule 15", "newest version of the running", _mix("purge", "scrub", beginnings=_FULL, **_ROT)),
            ("the two newest sound ones", "§7, rule 16", "one of the two newest sound", _mix("retire", "attempt", beginnings=_FULL)),
            ("the newest restorable one", "§7, rule 16", "newest restorable", _mix("retire", beginnings=("one was drilled",))),
            ("what waits for its verdict", "§7, rule 16", "waits for validation", _mix("retire", "attempt", beginnings=_FULL)),
        ]
    ),
    Control(
        guard="two sound versions are kept, not one", rule="§7, rule 16",
        remove=removed.one_sound_kept, mix=_mix("retire", "attempt", beginnings=_FULL),
    ),
    Control(
        guard="what is protected is asked again at Condemn", rule="§6 Condemn",
        remove=swept.condemns_without_asking, mix=_mix("retire", "collect", "validate", beginnings=("four versions wait",)),
    ),
    Control(
        guard="only what is condemned is deleted, not what is retired", rule="§15, rule 3",
        remove=swept.deletes_what_is_retired, mix=_RETAINED,
    ),
    Control(
        guard="an orphan is what a closed fence left, whatever its age", rule="§15, rule 3",
        remove=swept.open_fences_are_swept, mix=_mix("collect", beginnings=_UNDER_WAY),
    ),
    Control(
        guard="nothing is deleted while a kept manifest cannot be read", rule="§15, rule 3",
        remove=swept.sweeps_what_it_cannot_read, mix=_mix("retire", "collect", beginnings=_FULL, blind_sweepers=True),
    ),
    Control(
        guard="after a 404 the log is folded before a verdict", rule="§7, rule 12",
        remove=swept.does_not_fold_again, mix=_mix("retire", "collect", "scrub", "validate", beginnings=_FULL),
    ),
    Control(
        guard="a fork pins its origin before it exists", rule="§6, rule 10",
        remove=swept.pins_last, mix=_mix("fork", "retire", "collect", beginnings=_FULL, writers=1),
    ),
    Control(guard="an attempt deletes nothing", rule="§9, rule 7", remove=swept.cleans_up_after_failure),
)  # fmt: skip
