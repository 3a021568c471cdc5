"""Histories in which a version is picked that may not be, or given up that must be kept, played on the real log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_workers.store.bodies import (
    Condemn,
    ForkPin,
    ResumeChosen,
    Retire,
    Tagged,
    Verdict,
    VersionName,
)
from ray_workers.store.errors import RuleRefusedError
from ray_workers.store.log import RunLog
from tests.support import guard_removals as removed
from tests.support.plain_log import (
    Trace,
    append,
    breaks_without_guard,
    commit,
    commit_body,
    folded,
    judge,
    new_run,
    refusal,
)

# --- what may be picked, and what is kept ----------------------------------------------------------------------


def a_tag_lands_on_a_condemned_version() -> None:
    w1, first = _run_with_condemned()
    assert refusal(w1, Tagged(name="best", version=first, expects=None)) is RuleRefusedError


def a_condemned_version_is_resumed() -> None:
    w1, first = _run_with_condemned()
    body = ResumeChosen(fence=2, version=first, required="committed")
    assert refusal(w1, body) is RuleRefusedError


def a_condemned_version_is_forked() -> None:
    w1, first = _run_with_condemned()
    assert refusal(w1, _pin(first)) is RuleRefusedError


def a_condemned_version_is_judged_late() -> None:
    w1, first = _run_with_condemned()
    body = Verdict(versions=(first,), check="bytes", passed=False, checker="drill")
    assert refusal(w1, body) is RuleRefusedError


def a_commit_builds_on_a_condemned_base() -> None:
    w1, first = _run_with_condemned()
    body = replace(commit_body(w1.state, fence=2), base=first)
    assert refusal(w1, body) is RuleRefusedError


def a_commit_builds_on_bad_bytes() -> None:
    _, w1 = new_run()
    first = commit(w1, step=1)
    judge(w1, first, check="bytes", reason="a shard is missing")
    body = replace(commit_body(w1.state, fence=2), base=first)
    assert refusal(w1, body) is RuleRefusedError


def a_late_verdict_makes_a_retired_version_the_newest_sound_one() -> None:
    _, w1 = new_run()
    first, _, third, _ = (commit(w1, step=step) for step in range(1, 5))
    judge(w1, first)
    append(w1, Retire(versions=(third,)))
    judge(w1, third)
    assert refusal(w1, Condemn(versions=(third,))) is RuleRefusedError


def the_newest_sound_version_is_demoted_later() -> None:
    _, w1 = new_run()
    first, second, *_ = (commit(w1, step=step) for step in range(1, 5))
    judge(w1, first, second)
    assert refusal(w1, Retire(versions=(first,))) is RuleRefusedError


def the_resume_point_is_retired_while_it_is_read() -> None:
    _, w1 = new_run()
    first, second, third, _ = (commit(w1, step=step) for step in range(1, 5))
    judge(w1, first)
    append(w1, ResumeChosen(fence=2, version=first, required="sound"))
    judge(w1, second, third)
    assert refusal(w1, Retire(versions=(first,))) is RuleRefusedError


def the_origin_of_a_fork_is_retired() -> None:
    _, w1 = new_run()
    first, second, third, _ = (commit(w1, step=step) for step in range(1, 5))
    judge(w1, first)
    append(w1, _pin(first))
    judge(w1, second, third)
    assert refusal(w1, Retire(versions=(first,))) is RuleRefusedError


def commits_outrun_the_checker() -> None:
    _, w1 = new_run()
    sound, oldest, *_ = (commit(w1, step=step) for step in range(1, 6))
    judge(w1, sound)
    assert refusal(w1, Retire(versions=(oldest,))) is RuleRefusedError


def the_newest_restorable_version_is_retired() -> None:
    _, w1 = new_run()
    first, *rest = (commit(w1, step=step) for step in range(1, 5))
    judge(w1, first, check="restorable")
    judge(w1, *rest)
    assert refusal(w1, Retire(versions=(first,))) is RuleRefusedError


def a_tagged_version_is_retired() -> None:
    _, w1 = new_run()
    first, *rest = (commit(w1, step=step) for step in range(1, 5))
    append(w1, Tagged(name="best", version=first, expects=None))
    judge(w1, first, *rest)
    assert refusal(w1, Retire(versions=(first,))) is RuleRefusedError


def a_quarantined_version_passes_a_check() -> None:
    store, w1 = new_run()
    first = commit(w1, step=1)
    judge(w1, first, reason="loss is not finite")
    judge(w1, first)
    assert folded(store).versions[1].rung == "quarantined"


def a_verdict_names_a_number_that_has_other_bytes() -> None:
    _, w1 = new_run()
    first = commit(w1, step=1)
    other = VersionName(number=first.number, manifest="f" * 64)
    body = Verdict(versions=(other,), check="sound", passed=True, checker="drill")
    assert refusal(w1, body) is RuleRefusedError


def two_people_move_a_tag() -> None:
    _, w1 = new_run()
    first, second = (commit(w1, step=step) for step in (1, 2))
    append(w1, Tagged(name="best", version=first, expects=None))
    late = Tagged(name="best", version=second, expects=None)
    assert refusal(w1, late) is RuleRefusedError


def _pin(name: VersionName) -> ForkPin:
    return ForkPin(child="child", child_run_id="c" * 32, version=name)


def _run_with_condemned() -> tuple[RunLog, VersionName]:
    _, w1 = new_run()
    first, *rest = (commit(w1, step=step) for step in range(1, 5))
    judge(w1, *rest)
    append(w1, Retire(versions=(first,)))
    append(w1, Condemn(versions=(first,)))
    return w1, first


TRACES = [
    Trace(play.__name__, play, remove)
    for play, remove in [
        (a_tag_lands_on_a_condemned_version, removed.condemned_allowed),
        (a_condemned_version_is_resumed, removed.no_rule(ResumeChosen)),
        (a_condemned_version_is_forked, removed.condemned_allowed),
        (a_condemned_version_is_judged_late, removed.condemned_allowed),
        (a_commit_builds_on_a_condemned_base, removed.no_base_check),
        (a_commit_builds_on_bad_bytes, removed.no_base_check),
        (
            a_late_verdict_makes_a_retired_version_the_newest_sound_one,
            removed.no_protection_at_condemn,
        ),
        (the_newest_sound_version_is_demoted_later, removed.one_sound_kept),
        (the_resume_point_is_retired_while_it_is_read, removed.no_protection("resume point")),
        (the_origin_of_a_fork_is_retired, removed.no_protection("fork")),
        (commits_outrun_the_checker, removed.no_protection("waits for validation")),
        (the_newest_restorable_version_is_retired, removed.no_protection("newest restorable")),
        (a_tagged_version_is_retired, removed.no_protection("tagged")),
        (a_quarantined_version_passes_a_check, removed.no_quarantine),
        (a_verdict_names_a_number_that_has_other_bytes, removed.found_by_number),
        (two_people_move_a_tag, removed.no_rule(Tagged)),
    ]
]
each_trace = pytest.mark.parametrize("trace", TRACES, ids=[trace.name for trace in TRACES])


@each_trace
def test_the_trace_does_no_harm(trace):
    trace.play()


@each_trace
def test_the_guard_is_what_makes_it_harmless(trace, monkeypatch):
    assert breaks_without_guard(trace, monkeypatch)
