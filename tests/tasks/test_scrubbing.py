from __future__ import annotations

import pytest

from ray_workers.scrubbing import Scrubbed
from tasks import scrubbing
from tasks.run_identity import RunIdentity
from tasks.scrubbing import ScrubReport, publish_scrub


def read(version: int, reason: str | None) -> Scrubbed:
    return Scrubbed(run="digits", version=version, passed=reason is None, reason=reason, bytes=10)


def test_a_version_that_rotted_is_an_event_of_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[object, ...]] = []
    monkeypatch.setattr(scrubbing, "announce", lambda *said: told.append(said))
    monkeypatch.setattr(scrubbing, "create_markdown_artifact", lambda *_, **__: None)
    me = RunIdentity(flow_run_id="f", name="owl", run_count=1)
    monkeypatch.setattr(scrubbing, "current_identity", lambda: me)
    report = ScrubReport(versions=(read(1, None), read(2, "its digest differs")), unreadable={})
    publish_scrub.fn(report)
    payload = {"number": 2, "reason": "its digest differs"}
    assert told == [("pawl.version.quarantined", "digits", me, payload)]
