"""How each guard of the real store is taken away, one at a time, to show that a test would notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ray_workers.store import commit as commit_module
from ray_workers.store import fold, keys, log, rules
from ray_workers.store.bodies import Body, Commit, Condemn
from ray_workers.store.errors import ConflictError, StoreUnavailableError
from ray_workers.store.log_reader import LogReader
from ray_workers.store.records import Record
from ray_workers.store.run_state import RunState, VersionState
from tests.support.plain_log import RUN

__all__ = [
    "Removal",
    "all_effective",
    "always_ours",
    "condemned_allowed",
    "fence_stays_open",
    "found_by_number",
    "gives_up_without_answer",
    "never_ours",
    "no_base_check",
    "no_fence_check",
    "no_protection",
    "no_protection_at_condemn",
    "no_quarantine",
    "no_rule",
    "one_sound_kept",
    "unknown_kinds_ignored",
]

MonkeyPatch = pytest.MonkeyPatch
Removal = Callable[[MonkeyPatch], None]


def no_fence_check(patch: MonkeyPatch) -> None:
    patch.setattr(rules, "check_fence", lambda *_: None)
    patch.setattr(commit_module, "check_fence", lambda *_: None)


def no_rule(kind: type[Body]) -> Removal:
    return lambda patch: patch.setitem(rules._RULES, kind, lambda *_: None)


def no_base_check(patch: MonkeyPatch) -> None:
    checked = rules._commit
    patch.setitem(rules._RULES, Commit, lambda s, body: checked(s, replace(body, base=None)))


def condemned_allowed(patch: MonkeyPatch) -> None:
    patch.setattr(rules, "_not_condemned", rules._known)


def no_protection(why: str) -> Removal:
    """Versions are protected for every reason but this one."""

    def remove(patch: MonkeyPatch) -> None:
        found = RunState.protected
        patch.setattr(
            RunState,
            "protected",
            lambda state: {n: w for n, w in found(state).items() if not w.startswith(why)},
        )

    return remove


def no_protection_at_condemn(patch: MonkeyPatch) -> None:
    checked = rules._condemn

    def check(state: RunState, body: Condemn) -> None:
        with patch.context() as inner:
            inner.setattr(RunState, "protected", lambda _: {})
            checked(state, body)

    patch.setitem(rules._RULES, Condemn, check)


def one_sound_kept(patch: MonkeyPatch) -> None:
    found = RunState.protected

    def protected(state: RunState) -> dict[int, str]:
        kept = found(state)
        sound = [n for n, why in kept.items() if "two newest sound" in why]
        return {n: why for n, why in kept.items() if n not in sound or n == max(sound)}

    patch.setattr(RunState, "protected", protected)


def fence_stays_open(kind: type[Body]) -> Removal:
    def remove(patch: MonkeyPatch) -> None:
        effect = fold._EFFECTS[kind]

        def apply(state: RunState, record: Record, body: Body) -> None:
            fence = state.open_fence
            effect(state, record, body)
            state.open_fence = fence

        patch.setitem(fold._EFFECTS, kind, apply)

    return remove


def gives_up_without_answer(patch: MonkeyPatch) -> None:
    def place(self: log.RunLog, record: Record) -> bool:
        try:
            self._store.put_if_absent(keys.log_key(RUN, record.slot), record.to_bytes())
        except StoreUnavailableError as error:
            raise ConflictError("It was not written.") from error
        return True

    patch.setattr(log.RunLog, "_place", place)


def unknown_kinds_ignored(patch: MonkeyPatch) -> None:
    patch.setattr(log, "check", lambda state, body: rules.check(replace(state, unknown=()), body))


def never_ours(patch: MonkeyPatch) -> None:
    """Neither by a look into the slot nor while folding on."""
    advance = LogReader.advance
    patch.setattr(log.RunLog, "_is_ours", lambda *_: False)
    patch.setattr(LogReader, "advance", lambda self, state: advance(self, state)[:0])


def always_ours(patch: MonkeyPatch) -> None:
    patch.setattr(log.RunLog, "_is_ours", lambda *_: True)


def all_effective(patch: MonkeyPatch) -> None:
    patch.setattr(fold, "is_effective", lambda *_: True)


def no_quarantine(patch: MonkeyPatch) -> None:
    rung = vars(VersionState)["rung"].fget
    patch.setattr(VersionState, "rung", property(lambda v: rung(replace(v, quarantine=None))))


def found_by_number(patch: MonkeyPatch) -> None:
    patch.setattr(RunState, "find", lambda state, name: state.versions.get(name.number))
