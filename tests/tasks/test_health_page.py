import base64
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from ray_workers.health_facts import look_at_root
from ray_workers.health_values import Objective
from ray_workers.store.memory import MemoryStore
from tasks.health_page import render_health
from tests.support.factories import MadeUpRun


@pytest.fixture
def report():
    run = MadeUpRun(store=MemoryStore())
    run.start()
    run.commit(10)
    run.judge(1, reason="loss | jumped `x`")
    run.told = {"dropped_saves": "3", "dropped_reason": "no answer from the store"}
    run.commit(20)
    other = MadeUpRun(store=run.store, name="other")
    other.start()
    other.commit(10)
    other.end("failed", "disk full")
    return look_at_root(run.store, Objective())


def pictures(markdown):
    found = re.findall(r"data:image/svg\+xml;base64,([^)]+)\)", markdown)
    return [ET.fromstring(base64.b64decode(data)) for data in found]  # noqa: S314 - our own


def test_the_verdict_and_its_reason_come_first(report):
    page = render_health(report)
    assert page.markdown.startswith(
        "# 🟡 Warning: 1 of 2 runs would come back, but not as promised\n\n"
    )
    (row,) = [line for line in page.markdown.splitlines() if "nobody goes on with it" in line]
    assert "**other**" in row
    assert "run the same `pawl train` again" in row
    assert "Dropped: saves that became no version." in page.markdown
    assert "🟡 **warning** · 2 runs" in page.headline
    assert "at most 10 min of work at risk" in page.markdown.replace("\N{NO-BREAK SPACE}", " ")


def test_everything_an_operator_asks_is_on_the_page(report):
    text = render_health(report).markdown
    assert "loss \\| jumped" in text
    assert "disk full" in text
    assert "digits: 3, the last: no answer from the store" in text
    assert len(pictures(text)) == 2
    words = "".join(pictures(text)[0].itertext())
    assert "digits" in words
    assert "objective" in words
    assert "| kept |" in text


def test_a_root_without_runs_and_accounts_is_a_page_too(report):
    page = render_health(replace(report, runs=(), storage=None))
    assert page.markdown.startswith("# 🟢 Ready")
    assert pictures(page.markdown) == []


def test_hundreds_of_runs_stay_one_page(report):
    many = tuple(replace(report.runs[0], run=f"run-{i}") for i in range(500))
    assert len(render_health(replace(report, runs=many)).markdown) < 60_000
