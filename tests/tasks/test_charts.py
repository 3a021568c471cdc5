import math
import re
from dataclasses import replace

import pytest

from tasks.charts import loss_chart
from tasks.svg import attempt_colour
from tests.support.made_up_reports import Life, killed_twice, made_up_report, with_version
from tests.support.svg_elements import NS, parse, texts


def drawn(report):
    return parse(loss_chart(report))


def marks(root):
    """Of the picture itself, not of its legend."""
    return [e.attrib["href"][1:] for e in root if e.tag == f"{NS}use"]


def test_every_version_is_one_mark_of_its_rung():
    found = marks(drawn(killed_twice()))
    assert sorted(found) == sorted([*"s" * 9, "t", "t", "v", "c", "o"])


def test_the_ring_stands_around_the_newest_sound_version():
    root = drawn(killed_twice())
    ring, dot = (
        next(i for i, e in enumerate(root) if e.attrib.get("href") == href) for href in ("#o", "#s")
    )
    assert root[ring + 1].attrib["href"] == "#s"
    assert root[ring].attrib["x"] == root[ring + 1].attrib["x"] != root[dot].attrib["x"]


def test_every_attempt_has_a_line_of_its_colour_and_its_number_above():
    root = drawn(killed_twice())
    strokes = {e.attrib.get("stroke") for e in root.iter(f"{NS}path")}
    assert {attempt_colour(number) for number in (1, 2, 3)} <= strokes
    assert {"1", "2", "3"} <= set(texts(root))


def test_neighbouring_attempts_differ_in_colour():
    assert all(attempt_colour(n) != attempt_colour(n + 1) for n in range(1, 20))


def test_resumes_are_dashed_lines_at_their_step():
    root = drawn(killed_twice())
    (lines,) = [e.attrib["d"] for e in root if e.attrib.get("class") == "d"]
    sound = [e.attrib["x"] for e in root if e.attrib.get("href") == "#s"]
    fourth, sixth = sound[3], sound[5]
    assert re.fullmatch(rf"M{fourth} [\d.]+V[\d.]+M{sixth} [\d.]+V[\d.]+", lines)


def test_where_an_actor_was_started_again_nothing_resumed():
    report = made_up_report([Life(until=250, outcome="lost"), Life(resumed_from="2", until=360)])
    first, second = report.attempts
    root = drawn(replace(report, attempts=(first, replace(second, restarted=True))))
    assert not [e for e in root if e.attrib.get("class") == "d"]
    assert "resumed" not in texts(root)


def test_steps_done_again_are_hatched():
    root = drawn(killed_twice())
    (bands,) = [e.attrib["d"] for e in root if e.attrib.get("fill") == "url(#h)"]
    assert bands.count("z") == 2


def test_a_single_attempt_has_neither_numbers_nor_hatching():
    root = drawn(made_up_report([Life(until=500, outcome="completed")]))
    assert not [e for e in root if e.attrib.get("fill") == "url(#h)"]
    assert "done again" not in texts(root)
    assert "attempt" not in texts(root)


def test_without_any_finite_loss_there_is_no_picture():
    assert loss_chart(made_up_report([])) is None
    report = made_up_report([Life(until=50)])
    nothing = [(step, math.nan, attempt) for step, _, attempt in report.curve]
    assert loss_chart(made_up_report([Life(until=50)], curve=tuple(nothing))) is None


def test_a_loss_that_is_not_a_number_breaks_the_line_and_draws_no_nan():
    report = made_up_report([Life(until=30)])
    curve = tuple((s, math.inf if s == 15 else loss, a) for s, loss, a in report.curve)
    svg = loss_chart(made_up_report([Life(until=30)], curve=curve)) or ""
    line = next(p for p in re.findall(r'class="f" [^>]*d="(M[^"]*)"', svg))
    assert line.count("M") == 2
    assert "nan" not in svg
    assert "inf" not in svg


def test_an_attempt_that_saw_no_finite_loss_has_no_line():
    report = made_up_report([Life(until=30, outcome="failed"), Life(until=60)])
    curve = tuple((s, math.nan if a == 1 else loss, a) for s, loss, a in report.curve)
    root = drawn(made_up_report([Life(until=30, outcome="failed"), Life(until=60)], curve=curve))
    lines = [e for e in root if (e.attrib.get("class") or "").startswith("f")]
    assert {e.attrib["stroke"] for e in lines} == {attempt_colour(2)}


def test_a_version_without_a_loss_sits_on_the_axis():
    report = made_up_report([Life(until=500, outcome="completed")])
    without = drawn(with_version(report, 3, metrics={}))
    heights = [float(e.attrib["y"]) for e in without if e.attrib.get("href") == "#s"]
    assert heights[2] == max(heights)


def test_losses_over_many_decades_turn_the_axis_logarithmic():
    report = made_up_report(
        [Life(until=3000, outcome="completed")], loss=lambda step: 3 * math.exp(-step / 300)
    )
    assert any(text.startswith("loss, logarithmic") for text in texts(drawn(report)))


def test_a_lone_peak_is_cut_off_and_the_heading_says_so():
    report = made_up_report([Life(until=500)])
    curve = tuple((s, 1e6 if s == 250 else loss, a) for s, loss, a in report.curve)
    root = drawn(made_up_report([Life(until=500)], curve=curve))
    assert any("cut off at" in text for text in texts(root))
    labels = [float(t) for t in texts(root) if re.fullmatch(r"[\d.]+", t)]
    assert max(labels) < 1000


def test_a_long_curve_is_thinned_but_its_peak_stays():
    report = made_up_report([Life(until=20_000)], every=5000)
    curve = tuple((s, 2.5 if s == 12_345 else loss, a) for s, loss, a in report.curve)
    thinned = loss_chart(made_up_report([Life(until=20_000)], every=5000, curve=curve))
    plain = loss_chart(report)
    assert thinned is not None
    assert plain is not None
    assert len(thinned) < 25_000
    assert thinned != plain


def test_the_bold_line_breaks_where_losses_are_not_finite():
    report = made_up_report([Life(until=500)])
    curve = tuple((s, math.nan if 200 < s < 300 else loss, a) for s, loss, a in report.curve)
    svg = loss_chart(made_up_report([Life(until=500)], curve=curve)) or ""
    (bold,) = re.findall(r'class="f k" [^>]*d="([^"]*)"', svg)
    assert bold.count("M") == 2


def test_one_wild_loss_does_not_bend_the_bold_line():
    report = made_up_report([Life(until=500)])
    curve = tuple((s, loss * (40 if s == 250 else 1), a) for s, loss, a in report.curve)
    svg = loss_chart(made_up_report([Life(until=500)], curve=curve)) or ""
    (bold,) = re.findall(r'class="f k" [^>]*d="M([^"]*)"', svg)
    heights = [float(point.split()[1]) for point in bold.split("L")]
    assert heights == pytest.approx(sorted(heights), abs=25)


def test_work_that_no_longer_counts_is_dotted():
    styles = [e.attrib.get("class") for e in drawn(killed_twice())]
    assert styles.count("f k g") == 2


@pytest.mark.parametrize("count", [1, 2, 41])
def test_any_number_of_points_gives_a_picture(count):
    drawn(made_up_report([Life(until=count)]))


def pills(root):
    return [float(e.attrib["x"]) for e in root if e.attrib.get("rx") == "8"]


def test_numbers_of_attempts_that_resumed_together_stay_near_their_line():
    lives = [Life(until=250, outcome="crashed")]
    lives += [Life(resumed_from="2", until=251, outcome="crashed") for _ in range(12)]
    root = drawn(made_up_report([*lives, Life(resumed_from="2", until=500)]))
    (line,) = [e.attrib["d"] for e in root if e.attrib.get("class") == "d"]
    at = float(line[1:].split()[0])
    assert 1 < len(pills(root)) < 6
    assert all(abs(left - at) < 60 for left in pills(root)[1:])


def test_of_very_many_attempts_the_newest_are_marked():
    lives = [Life(until=15, outcome="crashed")]
    lives += [
        Life(resumed_from=str(index), until=15 + 10 * index, outcome="crashed")
        for index in range(1, 300)
    ]
    root = drawn(made_up_report(lives, every=10))
    (lines,) = [e.attrib["d"] for e in root if e.attrib.get("class") == "d"]
    assert lines.count("M") == 120


def test_names_are_escaped():
    svg = loss_chart(made_up_report([Life(until=50)], run="<script>\x00&")) or ""
    assert "<script" not in svg
    parse(svg)


def test_nothing_is_drawn_outside_the_picture():
    root = drawn(killed_twice())
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    for element in root:
        if "x" in element.attrib:
            assert 0 <= float(element.attrib["x"]) <= width
        if "y" in element.attrib:
            assert 0 <= float(element.attrib["y"]) <= height
