import base64
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from ray_workers.comparison import Comparison, LayerDistance, compare
from ray_workers.loading import open_version
from tasks.comparison_chart import curve_chart, layer_chart
from tasks.comparison_page import render_html, render_markdown, sections
from tests.support.factories import MadeUpRun, folder_store


@pytest.fixture
def comparison(tmp_path):
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    run.commit(10, config={"lr": 0.1, "note": "<b>|x"})
    run.end("failed")
    run.start(1)
    run.commit(30, config={"lr": 0.2, "note": "y"})
    chosen = [open_version(name, str(tmp_path)) for name in ("digits@1", "digits@2")]
    plain = compare(chosen, weights=False)
    moved = LayerDistance(name="a<b", norm=1.0, other_norm=2.0, distance=0.5)
    return Comparison(
        versions=plain.versions,
        differing=plain.differing,
        metrics=plain.metrics,
        layers={"digits@2": (moved,)},
        without_layers={"x@1": "no such"},
    )


def pictures(text):
    found = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", text)
    return [ET.fromstring(base64.b64decode(data)) for data in found]  # noqa: S314 - our own


def test_the_page_has_every_part(comparison):
    titles = [part.title for part in sections(comparison)]
    assert titles == [
        "Versions", "Metrics", "Hyperparameters that differ", "Loss over steps", "Loss over wall-clock",
        "Weights: digits@2 against digits@1", "Layer by layer: digits@2", "Weights: x@1",
        "Lineage of digits",
    ]  # fmt: skip


def test_the_curves_name_both_versions_and_mark_the_resume(comparison):
    curve = pictures(render_markdown(list(sections(comparison))))[0]
    words = "".join(curve.itertext())
    assert "digits@1" in words
    assert "resumed" in words


def test_each_version_has_a_dot_where_it_is_above_all_lines(comparison):
    steps, hours = pictures(render_markdown(list(sections(comparison))))[:2]
    for picture in (steps, hours):
        dots = [e for e in picture.iter() if e.get("r") == "6" and e.get("cx")]
        assert len({dot.get("fill") for dot in dots}) == 2
    assert steps.find(".//*[@cx='718']") is not None
    assert "seconds since the run began" in "".join(hours.itertext())


@pytest.mark.parametrize(
    ("longest", "unit"), [(0.01, "seconds"), (0.02, "minutes"), (0.9, "minutes"), (30.0, "hours")]
)
def test_time_is_told_in_a_unit_that_people_read(comparison, longest, unit):
    points = tuple(
        replace(p, hours=longest * i) for i, p in enumerate(comparison.versions[0].curve[:2])
    )
    versions = [replace(comparison.versions[0], curve=points)]
    assert f"{unit} since the run began" in str(curve_chart(versions, over="hours"))


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_html_is_one_file_that_fetches_nothing_and_runs_nothing(comparison):
    page = render_html(list(sections(comparison)), title="a & b", at="2026-11-24T00:00:00+00:00")
    parser = _Tags()
    parser.feed(page)
    assert "script" not in [tag for tag, _ in parser.seen]
    assert all(attrs["src"].startswith("data:") for tag, attrs in parser.seen if tag == "img")
    assert "&lt;b&gt;|x" in page
    assert "<b>" not in page
    assert len(pictures(page)) == 4


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_layer_that_is_not_finite_comes_first_and_is_drawn(broken):
    layers = [
        LayerDistance(name="moved", norm=1.0, other_norm=1.0, distance=0.25),
        LayerDistance(name="gone", norm=1.0, other_norm=broken, distance=broken),
    ]
    for shown in (layers, layers[1:]):
        picture = ET.fromstring(str(layer_chart("x@1", shown)))  # noqa: S314 - our own
        bars = [e for e in picture.iter() if e.tag.endswith("rect") and e.get("x") == "300"]
        assert [float(str(bar.get("width"))) for bar in bars] == [350.0] * len(shown)
        words = [e.text for e in picture.iter() if e.text in ("moved", "gone")]
        assert words == ["gone", "moved"][: len(shown)]


def test_layers_that_did_not_move_need_no_picture():
    still = LayerDistance(name="a", norm=1.0, other_norm=1.0, distance=0.0)
    assert layer_chart("x@1", [still]) is None
    many = [
        LayerDistance(name=f"l{i}", norm=1.0, other_norm=1.0, distance=float(i)) for i in range(99)
    ]
    assert "l98" in str(layer_chart("x@1", many))
    assert ">l1<" not in str(layer_chart("x@1", many))
