from __future__ import annotations

import itertools
from collections import Counter
from datetime import datetime, timedelta

import pytest
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.server.events.schemas.automations import EventTrigger as ServerTrigger
from prefect.server.events.schemas.automations import Posture as ServerPosture
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.types._datetime import now

from deployments.automations import PREFIX, ComeBack, automations
from ray_workers.store.errors import InvalidInputError

RULES = ComeBack(max_runs=4, backoff_seconds=(10, 60), lost_after_seconds=120)


def event(name: str, run_count: int = 1, tag: str = "pawl", *, after_s: float = 0) -> ReceivedEvent:
    """As Prefect's server sends it when a flow run changes its state."""
    return ReceivedEvent(
        occurred=now("UTC") + timedelta(seconds=after_s),
        event=f"prefect.flow-run.{name}",
        resource={"prefect.resource.id": "prefect.flow-run.x", "prefect.run-count": str(run_count)},
        related=[{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"}],
        id="6b8cd2cf-6d05-4c1f-b6d8-0a1c6a06f7a0",
    )


def started_by(happened: ReceivedEvent, rules: ComeBack = RULES) -> list[str]:
    """Which automations begin to count, or act, on this event, by the server's own rules of matching."""
    found = []
    for automation in automations(rules):
        trigger = ServerTrigger.model_validate(automation.trigger.model_dump(mode="json"))
        begins = (
            trigger.starts_after(happened.event)
            if trigger.posture == ServerPosture.Proactive
            else trigger.expects(happened.event) and not trigger.after
        )
        if begins and trigger.covers_resources(happened.resource, happened.related):
            found.append(automation.name.removeprefix(PREFIX))
    return found


def told_by(*events: ReceivedEvent, rules: ComeBack = RULES) -> list[str]:
    """Which rules act at once on these events of one flow run, one after another, by the server's own way of counting."""
    found = []
    for automation in automations(rules):
        trigger = ServerTrigger.model_validate(automation.trigger.model_dump(mode="json"))
        seen: Counter[tuple[str, ...]] = Counter()
        quiet: dict[tuple[str, ...], datetime] = {}
        for happened in events:
            if trigger.posture != ServerPosture.Reactive or not trigger.covers(happened):
                continue
            key = trigger.bucketing_key(happened)
            if key in quiet and happened.occurred < quiet[key]:
                continue  # it has acted within this time already
            if key not in seen and trigger.starts_after(happened.event):
                seen[key] = -1  # what starts the count is not counted
            seen[key] += 1
            if trigger.meets_threshold(seen[key]):
                found.append(automation.name.removeprefix(PREFIX))
                del seen[key]
                if not trigger.after:
                    quiet[key] = happened.occurred + trigger.within
    return found


@pytest.mark.parametrize(
    ("run_count", "expected"),
    [
        (0, "crashed, so try 2 of 4"),
        (1, "crashed, so try 2 of 4"),
        (2, "crashed, so try 3 of 4"),
        (3, "crashed, so try 4 of 4"),
        (4, "gave up"),
        (9, "gave up"),
        (10, "gave up"),
        (123, "gave up"),
    ],
)
def test_a_crash_is_answered_once_and_given_up_at_the_cap(run_count, expected):
    assert started_by(event("Crashed", run_count)) == [expected]


@pytest.mark.parametrize(
    ("counts", "acting"),
    [
        ((0,), []),
        ((0, 0), ["dies before its first try"]),
        ((0, 0, 0), ["dies before its first try"]),  # started by hand: it begins to count anew
        ((0, 1, 2, 3), []),
        ((1, 1), []),  # a try that had begun, and one that had not
        ((1, 1, 1), ["dies before its next try"]),
        ((0, 1, 2, 2, 2), ["dies before its next try"]),
        ((3, 4), ["gave up"]),
    ],
)
def test_a_run_that_never_begins_is_not_started_for_ever(counts, acting):
    assert told_by(*(event("Crashed", count) for count in counts)) == acting


@pytest.mark.parametrize(("after_s", "times"), [(0.2, 1), (44, 1), (90, 2)])
def test_one_death_of_which_two_tell_is_given_up_once(after_s, times):
    """Prefect's worker says *Crashed* again when it has noticed itself; a Retry by hand that dies too is another death."""
    last = event("Crashed", 4), event("Crashed", 4, after_s=after_s)
    assert told_by(*last) == ["gave up"] * times


def test_a_run_that_may_be_tried_once_is_given_up_when_it_never_began():
    once = ComeBack(max_runs=1)
    assert told_by(event("Crashed", 0), rules=once) == ["gave up"]
    assert started_by(event("Crashed", 1), once) == ["gave up"]


def test_a_run_that_never_begins_is_failed_which_ends_its_wait_and_tells_somebody():
    rules = automations(RULES)
    actions = [a.actions[0] for a in rules if "dies before" in a.name]
    assert [getattr(action, "state", None) for action in actions] == [StateType.FAILED] * 2
    assert told_by(event("Failed", 0)) == ["failed for good"]


@pytest.mark.parametrize("run_count", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("name", ["Crashed", "heartbeat", "Pending", "Cancelling"])
def test_runs_of_others_are_left_alone(name, run_count):
    assert started_by(event(name, run_count, tag="etl")) == []


@pytest.mark.parametrize("state", ["Completed", "Cancelled", "AwaitingRetry", "Running"])
def test_nothing_else_starts_a_retry(state):
    assert started_by(event(state)) == []


def test_silence_and_being_stuck_are_watched():
    assert started_by(event("heartbeat")) == ["no heartbeat, so crashed"]
    assert started_by(event("Pending")) == ["stuck in Pending"]
    assert started_by(event("Cancelling")) == ["stuck in Cancelling"]


def test_a_cancelled_run_is_not_taken_for_crashed_and_brought_back():
    lost = automations(RULES)[0].trigger
    assert isinstance(lost, EventTrigger)
    assert {
        f"prefect.flow-run.{s}" for s in ("Cancelling", "Cancelled", "Completed")
    } <= lost.expect
    actions = {a.name: a.actions[0] for a in automations(RULES)}
    stuck = actions[f"{PREFIX}stuck in Cancelling"]
    assert isinstance(stuck, ChangeFlowRunState)
    assert stuck.state == StateType.CANCELLED


def test_the_wait_grows_with_each_try_and_ends_when_somebody_retries_by_hand():
    again = [a.trigger for a in automations(RULES) if "so try" in a.name]
    waits = []
    for trigger in again:
        assert isinstance(trigger, EventTrigger)
        assert trigger.posture == Posture.Proactive
        assert "prefect.flow-run.Scheduled" in trigger.expect
        # a person, or a process that was called dead and lives, has ended it
        for ended in ("Completed", "Failed", "Cancelled"):
            assert f"prefect.flow-run.{ended}" in trigger.expect
        waits.append(trigger.within.total_seconds())
    assert waits == [10, 60, 60]
    assert all(a <= b for a, b in itertools.pairwise(waits))


def test_a_retry_is_never_forced():
    for automation in automations(RULES):
        for action in automation.actions:
            assert not getattr(action, "force", False)


def test_giving_up_tells_whom_it_was_told_to_tell():
    action = SendNotification(block_document_id="6b8cd2cf-6d05-4c1f-b6d8-0a1c6a06f7a0", body="x")
    assert automations(RULES, action)[-1].actions == [action]
    telling = [a.name for a in automations(RULES, action) if a.actions == [action]]
    assert telling == [f"{PREFIX}gave up", f"{PREFIX}failed for good"]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"max_runs": 0}, "choose 1 to 9"),
        ({"max_runs": 10}, "choose 1 to 9"),
        ({"backoff_seconds": (5,)}, "10 seconds or more"),
        ({"backoff_seconds": ()}, "10 seconds or more"),
        ({"lost_after_seconds": 60}, "beats every 30"),
    ],
)
def test_rules_that_cannot_work_are_refused(wrong, sentence):
    with pytest.raises(InvalidInputError, match=sentence):
        ComeBack(**wrong)
