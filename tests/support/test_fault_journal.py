from __future__ import annotations

import json

import pytest

from tests.support.fault_journal import Journal, Outcome
from tests.support.fault_report import Campaign, ControlResult, write_report
from tests.support.simulation.enumeration import FAULTS, Counts

ABOUT = {"commit": "abc", "longest": 3}
MARKERS = ("counts", "matrix", "guards", "invariants")


def outcome(part: str = "guard 3") -> Outcome:
    result = ControlResult(guard="g", rule="§1", histories=7, broken="it")
    counts = Counts(cases={("start", "dies after"): 5}, crash_points=2, endings=4)
    return Outcome(
        part=part, counts=counts, histories=4, calls=90, broken=["x"], controls={3: result}
    )


def test_what_was_played_is_found_again(tmp_path):
    page = tmp_path / "build" / "journal.jsonl"
    Journal(page, ABOUT).add(outcome())
    again = Journal(page, ABOUT)
    assert again.find("guard 3") == outcome()
    assert again.find("guard 4") is None


def test_a_part_that_was_cut_off_is_played_again(tmp_path):
    page = tmp_path / "journal.jsonl"
    Journal(page, ABOUT).add(outcome())
    with page.open("a") as cut:
        cut.write(json.dumps(outcome("guard 4").to_json())[:40])
    assert Journal(page, ABOUT).find("guard 4") is None


def test_a_journal_of_other_code_is_refused(tmp_path):
    page = tmp_path / "journal.jsonl"
    Journal(page, ABOUT).add(outcome())
    with pytest.raises(ValueError, match="another campaign"):
        Journal(page, ABOUT | {"commit": "def"})


def test_without_a_file_nothing_is_kept():
    journal = Journal(None, ABOUT)
    journal.add(outcome())
    assert journal.find("guard 3") == outcome()


def campaign() -> Campaign:
    return Campaign(command="make test-faults", longest=3, protocols=11, faults=15)


def test_a_campaign_of_which_a_part_was_left_out_is_not_good_and_says_so(tmp_path):
    page = tmp_path / "page.md"
    markers = (f"<!-- test-faults: {m} -->\n<!-- end of {m} -->\n" for m in MARKERS)
    page.write_text("".join(markers))
    whole = campaign()
    whole.parts = whole.played = 2
    assert whole.good
    part = campaign()
    part.parts, part.played = 2, 1
    part.histories, part.wanted = {"memory": 500}, {"memory": 100_000}
    assert not part.good
    assert not part.failed
    write_report(page, part)
    text = page.read_text()
    assert "500 of 100,000: the rest was not played" in text
    assert "NOT ALL WAS PLAYED      1 of 2 parts" in text
    assert all(f"| {injury.name} |" in text for injury in FAULTS)


def test_a_guard_that_nobody_misses_fails_the_campaign():
    noticed = campaign()
    noticed.controls[0] = ControlResult(guard="g", rule="§1", histories=None, broken="")
    assert noticed.failed
