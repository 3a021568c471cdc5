"""The driver's look at every rank's steps: one that stands still is named, its stacks are kept, and it is ended."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from ray_workers.messages import PawlEvent
from ray_workers.policies.hang import HangRule, RankPulse
from ray_workers.store.clock import utc_now

__all__ = ["HangWatch", "Hung"]

_LOOK_S = 5.0
_FROZEN_S = 30.0
"""Without a word from all nodes for so long, this process or one of theirs stood still (a pause of its machine, of its
container), and every clock went on: the silence of ranks says nothing then."""
_ANSWER_S = 5.0
_WAIT_S = 0.5
"""At a time: whoever leaves Ray while this waits in it waits for that long, at the most."""
_NAMED = 8
_STACKS_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hung:
    """Why an attempt was ended."""

    sentence: str
    ranks: tuple[int, ...]
    step: int
    """Steps done when it stood still."""
    stacks: Mapping[int, str] = field(default_factory=dict)
    """Of all ranks, the others' too."""
    at: float = 0.0
    """On this process's monotonic clock."""

    def event(self) -> PawlEvent:
        stacks = {str(rank): text for rank, text in self.stacks.items()}
        level = logging.ERROR
        details = {"level": level, "ranks": list(self.ranks), "step": self.step, "stacks": stacks}
        return PawlEvent(kind="hung", message=self.sentence, at=utc_now(), details=details)


class HangWatch:
    """Called by one thread, again and again.

    Args:
        rule: None: never.
        over: whether the attempt was left: then nobody is waited for any longer, and nobody is killed.
    """

    def __init__(
        self,
        rule: HangRule | None,
        clock: Callable[[], float] = time.monotonic,
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rule = rule
        self._clock = clock
        self._over = over
        self._looked = self._heard_at = self._rested = clock()
        self._calls: list[Any] = []
        self._suspected: frozenset[tuple[int, int]] = frozenset()
        """Ranks that seemed to hang at the look before, each with its step."""
        self.step_s: float | None = None
        """The median step of the slowest rank, when last seen; None: not known yet."""

    def look(self, agents: Mapping[str, Any]) -> Hung | None:
        """Whether ranks hang, by two looks in a row; if so their stacks are gathered, and they are killed, before this returns.

        Never waits for an agent while nothing hangs: what it answers is read at the next look.
        """
        if self._rule is None or self._clock() - self._looked < _LOOK_S:
            return None
        self._looked = self._clock()
        calls, self._calls = self._calls, [a.pulses.remote() for a in agents.values()]
        pulses = _answers(calls)
        if len(pulses) < len(calls):
            self._suspected = frozenset()
            return None  # a node of which nothing is known may be one whose rank rests
        if self._looked - self._heard_at > _FROZEN_S:
            self._rested = self._looked
        self._heard_at = self._looked
        heard = [pulse for some in pulses for pulse in some]
        self.step_s = max((p.median_s for p in heard if p.gaps), default=self.step_s)
        found = self._found_again(self.judge(heard))
        return self._ended(agents, found) if found else None

    def _found_again(self, found: Sequence[RankPulse]) -> tuple[RankPulse, ...]:
        """Those that were found at the look before too. After a short freeze an agent answers before its ranks can."""
        before, self._suspected = self._suspected, frozenset((p.rank, p.step) for p in found)
        return tuple(p for p in found if (p.rank, p.step) in before)

    def judge(self, pulses: Sequence[RankPulse]) -> tuple[RankPulse, ...]:
        """Those that hang, by the rule."""
        if self._rule is None:
            return ()
        if not pulses or any(pulse.resting for pulse in pulses):
            self._rested = self._clock()
        return self._rule.hung(pulses, rested_s=self._clock() - self._rested)

    def _ended(self, agents: Mapping[str, Any], found: Sequence[RankPulse]) -> Hung | None:
        stacks = _gather_stacks(list(agents.values()), self._over)
        if self._over():
            return None
        ranks = tuple(pulse.rank for pulse in found)
        for agent in agents.values():
            agent.kill_ranks.remote(ranks)
        return Hung(
            sentence=_sentence(found),
            ranks=ranks,
            step=min(pulse.step for pulse in found),
            stacks=stacks,
            at=self._clock(),
        )


def _sentence(found: Sequence[RankPulse]) -> str:
    first = found[0]
    names = ", ".join(str(pulse.rank) for pulse in found[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return (
        f"Rank {names}{more} took no step for {first.silent_s:.0f} s after step {first.step}, where a step takes "
        f"{first.median_s:.3g} s: it hangs, or waits for one that does. The attempt ends and is tried again; the stacks of "
        "all ranks are kept with this flow run. If they show that it was at work, as in an evaluation, put that inside `with "
        "session.resting():`, or raise scaling.hung_after_seconds (--hung-after)."
    )


def _gather_stacks(agents: Sequence[Any], over: Callable[[], bool]) -> dict[int, str]:
    """Of all ranks: what they say of themselves, else what the kernel says of their process."""
    for agent in agents:
        agent.want_stacks.remote()
    told: dict[int, str | None] = {}
    deadline = time.monotonic() + _STACKS_S
    while time.monotonic() < deadline and not over():
        answers = _patient_answers([agent.stacks.remote() for agent in agents], over)
        told = {rank: text for some in answers for rank, text in some.items()}
        if told and all(told.values()):
            break
        time.sleep(0.5)
    if over():
        return {}
    states = _patient_answers([agent.rank_states.remote() for agent in agents], over)
    doing = {rank: state for some in states for rank, state in some.items()}
    return {
        rank: text or f"No answer. The process is {doing.get(rank, 'not known')}."
        for rank, text in sorted(told.items())
    }


def _patient_answers(calls: Sequence[Any], over: Callable[[], bool]) -> list[Any]:
    """What those gave that answered in time and could; nothing once the attempt was left."""
    deadline, late = time.monotonic() + _ANSWER_S, list(calls)
    while late and time.monotonic() < deadline and not over():
        late = ray.wait(late, num_returns=len(late), timeout=_WAIT_S)[1]
    return [] if over() else _answers(calls)


def _answers(calls: Sequence[Any]) -> list[Any]:
    """What those gave that have answered by now and could."""
    if not calls:
        return []
    answers = []
    for call in ray.wait(list(calls), num_returns=len(calls), timeout=0)[0]:
        with contextlib.suppress(RayError):
            answers.append(ray.get(call))
    return answers
