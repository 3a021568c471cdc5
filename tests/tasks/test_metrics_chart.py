import math
import re
from dataclasses import replace

from tasks.metrics_chart import MAX_PANELS, metrics_chart, metrics_to_draw
from tasks.svg import attempt_colour
from tests.support.made_up_reports import Life, killed_twice, made_up_report
from tests.support.svg_elements import NS, parse, texts


def with_series(report, **series):
    return replace(report, series={n: tuple(points) for n, points in series.items()})


def accuracy(report):
    return [(step, 1 - loss / 4, attempt) for step, loss, attempt in report.curve]


def drawn(report):
    return parse(metrics_chart(report))


def test_each_metric_has_a_panel_under_its_name_and_losses_come_first():
    report = killed_twice()
    report = with_series(report, accuracy=accuracy(report), train_loss=report.curve)
    assert metrics_to_draw(report) == ["train_loss", "accuracy"]
    root = drawn(report)
    assert [text for text in texts(root) if text in report.series] == ["train_loss", "accuracy"]
    strokes = {e.attrib.get("stroke") for e in root.iter(f"{NS}path")}
    assert {attempt_colour(number) for number in (1, 2, 3)} <= strokes


def test_no_more_than_a_few_panels_are_drawn():
    report = made_up_report([Life(until=50)])
    root = drawn(with_series(report, **{f"m{n}": report.curve for n in range(9)}))
    assert [text for text in texts(root) if text.startswith("m")] == ["m0", "m1", "m2", "m3"]
    assert MAX_PANELS == 4


def test_without_any_finite_value_there_is_no_panel():
    assert metrics_chart(killed_twice()) is None
    broken = with_series(killed_twice(), broken=[(1, math.nan, 1), (2, math.inf, 1)], none=[])
    assert metrics_to_draw(broken) == []
    assert metrics_chart(broken) is None


def test_a_value_that_is_not_a_number_is_left_out():
    points = [(1, 0.5, 1), (2, math.nan, 1), (3, 0.7, 1), (4, -math.inf, 1)]
    svg = metrics_chart(with_series(made_up_report([Life(until=4)]), accuracy=points)) or ""
    assert "nan" not in svg
    assert "inf" not in svg
    (dots,) = re.findall(r'stroke-width:5" [^>]*d="([^"]*)"', svg)
    assert dots.count("h0") == 2


def test_many_values_are_a_line_and_no_dots():
    report = made_up_report([Life(until=500)])
    svg = metrics_chart(with_series(report, accuracy=accuracy(report))) or ""
    assert "stroke-width:5" not in svg
    assert 'class="f k"' in svg


def test_resumes_are_dashed_lines_in_every_panel_but_not_where_an_actor_was_started_again():
    report = killed_twice()
    report = with_series(report, a=accuracy(report), b=accuracy(report))
    lines = [e.attrib["d"] for e in drawn(report) if e.attrib.get("class") == "d"]
    assert [line.count("M") for line in lines] == [2, 2]
    went_on = tuple(replace(attempt, restarted=True) for attempt in report.attempts)
    root = drawn(replace(report, attempts=went_on))
    assert not [e for e in root if e.attrib.get("class") == "d"]


def test_the_picture_stays_small_whatever_the_series():
    lives = [Life(until=10, outcome="crashed")]
    lives += [
        Life(resumed_from=str(n), until=10 + 10 * n, outcome="crashed") for n in range(1, 300)
    ]
    report = made_up_report(lives, every=10)
    svg = metrics_chart(with_series(report, **{f"m{n}": report.curve for n in range(9)}))
    assert svg is not None
    assert len(svg) < 24_000


def test_names_are_escaped():
    report = made_up_report([Life(until=50)])
    svg = metrics_chart(with_series(report, **{"<script>\x00&": report.curve})) or ""
    assert "<script" not in svg
    parse(svg)
