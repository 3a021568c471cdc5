from __future__ import annotations

import json

import pytest

from tests.support.drill_table import BEGIN, END, add, table, write_into

DRILL = {
    "workers": 2, "verify_s": 0.5, "cluster_s": 6.0, "start_s": 9.25, "restore_s": 0.125, "first_step_s": 0.25,
    "seconds": 16.5, "probe_saved": 0.25, "probe_read": 0.25,
}  # fmt: skip


def test_a_line_for_each_drill(tmp_path):
    path = tmp_path / "build" / "drills.jsonl"
    add(path, "step 10", {**DRILL, "bit_identical": True})
    add(path, "the end", {**DRILL, "probe_read": 0.5})
    text = table([json.loads(line) for line in path.read_text().splitlines()])
    assert (
        "| step 10 | 2 | 0.50 | 6.00 | 9.25 | 0.12 | 0.25 | 16.50 | equal | bit-identical |" in text
    )
    assert "| the end | 2 |" in text
    assert "| differs | no next step |" in text


def test_only_what_stands_between_the_markers_is_replaced():
    page = f"before\n{BEGIN}\nold\n{END}\nafter"
    written = write_into(page, [DRILL | {"what": "x"}])
    assert written.startswith("before\n")
    assert written.endswith("\nafter")
    assert "old" not in written
    with pytest.raises(ValueError, match="markers"):
        write_into("no markers", [])
