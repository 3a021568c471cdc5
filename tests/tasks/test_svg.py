import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.svg import (
    WIDTH,
    LegendItem,
    Scale,
    data_uri,
    document,
    legend,
    log_ticks,
    num,
    safe,
    short_count,
    ticks,
)
from tests.support.svg_elements import parse


@given(st.text())
def test_any_text_is_character_data_afterwards(text):
    element = parse(f"<text a='{safe(text)}'>{safe(text)}</text>")
    assert len(element.text or "") <= 80
    assert element.attrib["a"] == (element.text or "")
    assert not list(element)


def test_control_characters_are_dropped_and_markup_is_text():
    assert safe('a\x00\x08<b> & "c"\ud800') == "a&lt;b&gt; &amp; &quot;c&quot;"


def test_long_text_is_cut_with_an_ellipsis():
    assert safe("x" * 30, 10) == "x" * 9 + "…"


def test_coordinates_are_short():
    assert [num(x) for x in (1.0, 1.26, -0.04)] == ["1", "1.3", "-0"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1_200, "1,200"), (12_000, "12k"), (1_500_000, "1.5M"), (2e9, "2G")],
)
def test_axis_counts_are_short(value, text):
    assert short_count(value) == text


def test_a_scale_maps_its_ends_and_cuts_what_lies_outside():
    scale = Scale(low=10, high=20, start=100, end=200)
    assert [scale(x) for x in (10, 15, 20, 0, 99)] == [100, 150, 200, 100, 200]


def test_a_logarithmic_scale_gives_every_decade_the_same_room():
    scale = Scale(low=0.01, high=100, start=0, end=4, log=True)
    assert [scale(x) for x in (0.01, 1, 100)] == pytest.approx([0, 2, 4])


def test_a_scale_of_one_value_puts_it_in_the_middle():
    assert Scale(low=3, high=3, start=0, end=10)(3) == 5


@given(
    st.floats(-1e9, 1e9, allow_nan=False),
    st.floats(1e-6, 1e9, allow_nan=False),
    st.integers(2, 8),
)
def test_ticks_lie_inside_and_are_few(low, span, count):
    found = ticks(low, low + span, count)
    slack = span * 1e-6 + abs(low) * 1e-9
    assert len(found) <= count + 1
    assert all(low - slack <= tick <= low + span + slack for tick in found)


def test_ticks_are_round_and_whole_when_asked():
    assert ticks(0, 1187, 6) == [0, 200, 400, 600, 800, 1000]
    assert ticks(0, 3, 6, whole=True) == [0, 1, 2, 3]
    assert ticks(5, 5, 6) == [5]


def test_logarithmic_ticks_thin_out_over_many_decades():
    assert log_ticks(0.01, 1.0, 6) == pytest.approx([0.01, 0.03, 0.1, 0.3, 1.0])
    assert len(log_ticks(1e-12, 1e12, 6)) <= 6


def test_a_legend_starts_another_row_before_the_edge():
    items = [LegendItem(symbol="<path/>", label="quarantined") for _ in range(8)]
    drawn, bottom = legend(items, left=14, top=0)
    root = parse(f"<g>{drawn}</g>")
    places = [
        g.attrib["transform"][10:-1].split() for g in root.iter("g") if "transform" in g.attrib
    ]
    assert len(places) == 16  # both layouts
    assert all(float(x) + 11 * 8 < WIDTH for x, _ in places)
    assert len({y for _, y in places}) > 1
    assert bottom > max(float(y) for _, y in places)


def test_a_document_is_well_formed_white_and_self_contained():
    text = document(["<path/>"], height=100, title="a<b", description="c&d", radius=5)
    root = parse(text)
    assert root.attrib["viewBox"] == f"0 0 {WIDTH} 100"
    background = next(e for e in root if e.tag.endswith("rect"))
    assert background.attrib["fill"] == "#fff"
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_a_data_uri_carries_the_picture():
    head, _, body = data_uri("<svg>ä</svg>").partition(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(body).decode() == "<svg>ä</svg>"
