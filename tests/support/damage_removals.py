"""How each guard against damage, holes and wrong caches is taken away, to show that a test would notice."""

from __future__ import annotations

import json

import pytest

from ray_workers.store import fold, fold_cache, keys, log, log_reader, rules
from ray_workers.store.log_reader import LogReader
from ray_workers.store.records import Record
from ray_workers.store.run_state import FOLD_VERSION, RunState
from tests.support.guard_removals import Removal, no_base_check

__all__ = [
    "OLDER_FOLD",
    "a_lost_creation_is_never_guessed",
    "any_cache",
    "any_fold_version",
    "cache_digest_unchecked",
    "chain_is_strict",
    "contradictions_ignored",
    "damage_not_believed",
    "hole_is_the_end",
    "no_base_check",
    "no_damage_effect",
    "no_filler",
    "no_look_beyond_the_end",
    "no_repair_needed",
    "numbers_go_on",
    "only_deleted_runs_begin_again",
    "only_right_above_damage",
]

MonkeyPatch = pytest.MonkeyPatch

OLDER_FOLD = FOLD_VERSION - 1


def no_damage_effect(*kept: str) -> Removal:
    """A damaged slot leaves these parts of the state as they were."""

    def remove(patch: MonkeyPatch) -> None:
        def apply(state: RunState) -> None:
            before = {name: getattr(state, name) for name in kept}
            before = {n: dict(v) if isinstance(v, dict) else v for n, v in before.items()}
            fold.apply_damaged(state)
            for name, value in before.items():
                setattr(state, name, value)

        patch.setattr(log_reader, "apply_damaged", apply)

    return remove


def chain_is_strict(patch: MonkeyPatch) -> None:
    patch.setattr(fold, "is_effective", lambda state, record: record.prev == state.head)


def damage_not_believed(patch: MonkeyPatch) -> None:
    """Who sees a sound record below refuses what somebody built upon its damage."""
    effective = fold.is_effective

    def strict(state: RunState, record: Record) -> bool:
        said = str(record.prev).startswith("damaged:") and state.slot not in state.damaged
        return effective(state, record) and not said

    patch.setattr(fold, "is_effective", strict)


def numbers_go_on(patch: MonkeyPatch) -> None:
    patch.setattr(RunState, "next_number", property(lambda state: state.highest_number + 1))


def no_repair_needed(patch: MonkeyPatch) -> None:
    patch.setattr(rules, "_damage_repaired", lambda *_: None)


def contradictions_ignored(patch: MonkeyPatch) -> None:
    patch.setattr(log_reader, "_contradicted", lambda *_: False)


def only_deleted_runs_begin_again(patch: MonkeyPatch) -> None:
    effective = fold.is_effective

    def strict(state: RunState, record: Record) -> bool:
        again = record.kind == "RunCreated" and state.run_id is not None
        return effective(state, record) and not (again and not state.deleted)

    patch.setattr(fold, "is_effective", strict)


def a_lost_creation_is_never_guessed(patch: MonkeyPatch) -> None:
    patch.setattr(fold, "_begins_unseen", lambda *_: False)


def only_right_above_damage(patch: MonkeyPatch) -> None:
    patch.setattr(
        RunState, "damage_above_head", property(lambda state: state.slot in state.damaged)
    )


def hole_is_the_end(patch: MonkeyPatch) -> None:
    patch.setattr(log_reader, "_own_above", lambda *_: False)


def no_filler(patch: MonkeyPatch) -> None:
    patch.setattr(log.RunLog, "_fill_holes_below", lambda *_: None)


def no_look_beyond_the_end(patch: MonkeyPatch) -> None:
    patch.setattr(LogReader, "_fold_lost_tail", lambda *_: None)


def any_fold_version(patch: MonkeyPatch) -> None:
    patch.setattr(fold_cache, "FOLD_VERSION", OLDER_FOLD)


def any_cache(patch: MonkeyPatch) -> None:
    patch.setattr(LogReader, "_continues", lambda *_: True)


def cache_digest_unchecked(patch: MonkeyPatch) -> None:
    def read(self: LogReader, slot: int, head: str) -> RunState:
        data = self._store.get(keys.fold_key(self._run, slot, head))
        return fold_cache._state(json.loads(data)["state"])

    patch.setattr(LogReader, "_read_cache", read)
