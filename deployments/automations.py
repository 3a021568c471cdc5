"""Automations that bring Pawl's runs back: what Prefect's own `retries=` never covers, because it ends with the process.

A run whose process died with its worker stays Running for ever, and a Crashed run stays Crashed. Four rules mend that,
for flow runs with the tag `pawl` alone:

1. no heartbeat for a while: Crashed;
2. taken by a worker and never begun: Crashed; cancelled and never ended: Cancelled;
3. Crashed, and tried less often than allowed: the same flow run again, each time after a longer wait; two starts in a
   row that die before they begin: Failed, for Prefect's run count does not rise with them;
4. tried as often as allowed, or Failed for good: given up, and somebody is told.

A flow run that was declared dead and lives on does no harm: the store refuses everything an overtaken attempt writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, DoNothing
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from deployments.own_prefect import HEARTBEAT_S
from ray_workers.store.errors import InvalidInputError
from tasks.run_identity import TAG

__all__ = ["PREFIX", "TAG", "ComeBack", "automations"]

PREFIX = "pawl: "
"""Of the name of every automation made here; others are never touched."""

MAX_RUNS = 9
MIN_WAIT_S = 10
"""Prefect looks at waiting automations no oftener."""
MIN_SILENCE_S = 3 * HEARTBEAT_S
"""Three heartbeats of the shortest kind that Prefect has."""

MIN_STUCK_S = 60
JOB_MAY_GO_ON = "If it trained as a Ray job, that may go on: stop it on Ray's dashboard."

_SECOND = 2
_REMEMBERED = timedelta(days=1)
"""How long a crash is remembered, to know that no try has begun since: far longer than any wait between two tries."""
_ONE_DEATH = timedelta(seconds=60)
"""Within it a second *Crashed* is Prefect's worker that has noticed it too (`backoff_seconds`)."""
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed")
_NOT_WAITING = (
    "AwaitingRetry",
    "Scheduled",
    "Pending",
    "Running",
    "Completed",
    "Failed",
    "Cancelled",
)
_STEPS_ON = ("Running", "Retrying", "AwaitingRetry", "Scheduled", "Cancelling", *_ENDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComeBack:
    """How often, how soon, and after what silence a run is brought back."""

    max_runs: int = 5
    """Tries of one flow run in all, whatever ended them; in-process retries count too."""
    backoff_seconds: tuple[int, ...] = (30, 60, 300)
    """Wait before the second try, the third …; the last one holds for all later ones.

    The first is no shorter by default, for Prefect's worker says *Crashed* a second time when it has noticed itself that a process is
    gone, and ends the try that had begun meanwhile: up to 44 seconds after the first on a crowded machine.
    """
    lost_after_seconds: int = 150
    """Silence after which a run is taken for dead; three heartbeats at least."""
    stuck_after_seconds: int = 900
    """A run that a worker took and that has not begun, or that is being cancelled, for so long is stuck."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_runs <= MAX_RUNS:
            raise InvalidInputError(
                f"The number of tries is {self.max_runs}: choose 1 to {MAX_RUNS}."
            )
        if not self.backoff_seconds or min(self.backoff_seconds) < MIN_WAIT_S:
            raise InvalidInputError(
                f"Each wait between tries must be {MIN_WAIT_S} seconds or more: Prefect looks no oftener."
            )
        if self.lost_after_seconds < MIN_SILENCE_S:
            raise InvalidInputError(
                f"A run may be taken for dead after {MIN_SILENCE_S} seconds of silence at the least: it beats every {HEARTBEAT_S}."
            )
        if self.stuck_after_seconds < MIN_STUCK_S:
            raise InvalidInputError(
                f"A run may count as stuck after {MIN_STUCK_S} seconds at the least: its process or pod must first start."
            )

    def wait_before(self, try_number: int) -> int:
        """Seconds from the crash to this try, from 2."""
        return self.backoff_seconds[min(try_number - _SECOND, len(self.backoff_seconds) - 1)]


def automations(rules: ComeBack, notify: ActionTypes | None = None) -> list[AutomationCore]:
    """All of Pawl's automations; `notify` is what giving up does besides the event that every automation emits."""
    return [
        _lost(rules),
        _stuck("Pending", _STEPS_ON, ChangeFlowRunState(
            state=StateType.CRASHED, message="Taken by a worker, but never begun."), rules),
        _stuck("Cancelling", _ENDS, ChangeFlowRunState(
            state=StateType.CANCELLED, message=f"Cancelled; nothing was left that could say so. {JOB_MAY_GO_ON}"), rules),
        *(_again(rules, number) for number in range(_SECOND, rules.max_runs + 1)),
        *_never_begins(rules),
        _gave_up(rules, notify or DoNothing()),
        _failed(notify or DoNothing()),
    ]  # fmt: skip


def _lost(rules: ComeBack) -> AutomationCore:
    return AutomationCore(
        name=f"{PREFIX}no heartbeat, so crashed",
        description=(
            f"A run of Pawl's that was silent for {rules.lost_after_seconds} s died together with its worker; without "
            "this it would stay Running for ever."
        ),
        trigger=EventTrigger(
            after={_event("heartbeat")},
            expect={_event(name) for name in ("heartbeat", "Cancelling", "AwaitingRetry", *_ENDS)},
            posture=Posture.Proactive,
            within=timedelta(seconds=rules.lost_after_seconds),
            **_ours(),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"No heartbeat for {rules.lost_after_seconds} seconds.",
            )
        ],
    )


def _stuck(
    state: str, ways_out: tuple[str, ...], action: ActionTypes, rules: ComeBack
) -> AutomationCore:
    return AutomationCore(
        name=f"{PREFIX}stuck in {state}",
        description=f"A run of Pawl's that is {state} for {rules.stuck_after_seconds} s has lost its worker.",
        trigger=EventTrigger(
            after={_event(state)},
            expect={_event(name) for name in ways_out},
            posture=Posture.Proactive,
            within=timedelta(seconds=rules.stuck_after_seconds),
            **_ours(),
        ),
        actions=[action],
    )


def _again(rules: ComeBack, number: int) -> AutomationCore:
    """The n-th try. The run count is that of the crash, so a run that never began counts as its first try."""
    wait = rules.wait_before(number)
    before = [str(number - 1), *(["0"] if number == _SECOND else [])]
    return AutomationCore(
        name=f"{PREFIX}crashed, so try {number} of {rules.max_runs}",
        description=f"{wait} s after the crash the same flow run goes on from its newest trusted version.",
        trigger=EventTrigger(
            after={_event("Crashed")},
            # What a person, or a process that was called dead and lives, has ended meanwhile stays ended.
            expect={_event(name) for name in _NOT_WAITING},
            posture=Posture.Proactive,
            within=timedelta(seconds=wait),
            **_ours({"prefect.run-count": before}),
        ),
        # Not forced: a run without a deployment cannot come back, and Prefect then leaves it alone.
        actions=[
            ChangeFlowRunState(
                state=StateType.SCHEDULED,
                name="AwaitingRetry",
                message=f"Crashed; try {number} of {rules.max_runs}.",
            )
        ],
    )


def _never_begins(rules: ComeBack) -> list[AutomationCore]:
    """Two starts in a row that die before they begin, before the first try or after a later one.

    Prefect counts a try when it begins, so what hinders the start (no working directory, an import error, a full disk)
    would be tried for ever. That the count has not risen since the last crash tells it: the first crash of a try that had
    begun does not count.
    """
    begun = [str(number) for number in range(1, rules.max_runs)]
    return [
        _dies_again("dies before its first try", ["0"], 1, rules),
        *([_dies_again("dies before its next try", begun, _SECOND, rules)] if begun else []),
    ]


def _dies_again(what: str, counts: list[str], more: int, rules: ComeBack) -> AutomationCore:
    ours = _ours({"prefect.run-count": counts})
    return AutomationCore(
        name=f"{PREFIX}{what}",
        description=f"A run of Pawl's that {what}, twice in a row, is Failed and given up.",
        trigger=EventTrigger(
            after={_event("Crashed")},
            expect={_event("Crashed")},
            posture=Posture.Reactive,
            within=_REMEMBERED,
            **{**ours, "threshold": more, "for_each": {*ours["for_each"], "prefect.run-count"}},
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.FAILED,
                message=f"Crashed twice before it began; of {rules.max_runs} tries no other is made. Its worker's log says why.",
            )
        ],
    )


def _gave_up(rules: ComeBack, action: ActionTypes) -> AutomationCore:
    return AutomationCore(
        name=f"{PREFIX}gave up",
        description=(
            f"A run of Pawl's crashed in its try {rules.max_runs}. What was committed is kept; Retry on its page goes on."
        ),
        trigger=EventTrigger(
            expect={_event("Crashed")},
            posture=Posture.Reactive,
            within=_ONE_DEATH,  # acts at once, and then not again for so long
            **_ours({"prefect.run-count": _at_the_cap(rules)}),
        ),
        actions=[action],
    )


def _at_the_cap(rules: ComeBack) -> list[str]:
    never_again = ["0"] if rules.max_runs < _SECOND else []
    return [f"[{rules.max_runs}-9]", "[1-9][0-9]*", *never_again]


def _failed(action: ActionTypes) -> AutomationCore:
    return AutomationCore(
        name=f"{PREFIX}failed for good",
        description=(
            "A run of Pawl's is Failed: no try is left in its process, or another one would fail the same way. "
            "What was committed is kept; Retry on its page goes on."
        ),
        trigger=EventTrigger(
            # One with tries left is AwaitingRetry, and never Failed.
            expect={_event("Failed")},
            posture=Posture.Reactive,
            within=timedelta(0),
            **_ours(),
        ),
        actions=[action],
    )


def _event(name: str) -> str:
    return f"prefect.flow-run.{name}"


def _ours(labels: dict[str, list[str]] | None = None) -> dict[str, Any]:
    return {
        "match": ResourceSpecification(
            {"prefect.resource.id": ["prefect.flow-run.*"], **(labels or {})}
        ),
        "match_related": ResourceSpecification(
            {"prefect.resource.role": ["tag"], "prefect.resource.id": [f"prefect.tag.{TAG}"]}
        ),
        "for_each": {"prefect.resource.id"},
        "threshold": 1,
    }
