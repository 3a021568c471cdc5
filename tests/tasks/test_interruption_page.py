from __future__ import annotations

from ray_workers.explaining import ENDINGS, interruptions
from ray_workers.policies.failure_words import Failure
from tasks.interruption_chart import interruption_chart
from tasks.interruption_page import _WHAT, explanations
from tests.support.interruptions import STARTUP, at, attempt, report, version


def story(count: int = 2):
    rows = [attempt(1, 0, ended_at=at(130), outcome="failed", reason="rank 1: `x` | <b>")]
    versions = [version(1, 1, 100, 100)]
    for number in range(2, count + 1):
        rows.append(
            attempt(
                number, 140, outcome="failed", reason="again", ended_at=at(150), resumed_from="1",
                resumed_at=at(141), steps_lost=5, passed_over=(("9", "NaN"),),
            )
        )  # fmt: skip
        versions.append(version(number, number, 100 + number, 149, startup=STARTUP))
    return report(rows, versions)


def test_every_attempt_but_the_first_has_its_section():
    text = explanations(story(3))
    assert text is not None
    assert text.index("### Attempt 3") < text.index("### Attempt 2")
    assert "### Attempt 1\n" not in text
    assert "ended with an exception: rank 1: \\`x\\` \\| &lt;b&gt;" in text
    assert "(flow on host node" in text
    assert "Passed over version 9: NaN" in text
    assert "Steps lost: at least 5" in text
    assert "in vain 30" in text
    assert "![Seconds lost by phase](data:image/svg+xml;base64," in text


def test_every_ending_has_words_and_its_place_stands_beside_it():
    assert set(_WHAT) == set(ENDINGS)
    said = Failure(rank=3, error="KeyError", said="x", node="trainer|2", noticed_s=3.0).text("run")
    rows = [attempt(1, 0, ended_at=at(9), outcome="failed", reason=said), attempt(2, 10)]
    text = explanations(report(rows, []))
    assert text is not None
    assert "ended with an exception (rank 3, node trainer\\|2): Training" in text
    assert "detect 3" in text


def test_a_run_that_was_never_interrupted_has_none():
    assert explanations(story(1)) is None


def test_a_long_story_ends_with_a_count():
    text = explanations(story(30))
    assert text is not None
    assert text.count("### Attempt") == 8
    assert "21 earlier ones not shown here" in text
    assert len(text) < 40_000


def test_the_picture_has_a_bar_for_each_phase_with_its_seconds():
    svg = interruption_chart(interruptions(story()))
    assert svg is not None
    for phase in ("in vain 30 s", "schedule 10 s", "restore 3 s"):
        assert f"<title>{phase}</title>" in svg
    assert interruption_chart([]) is None
