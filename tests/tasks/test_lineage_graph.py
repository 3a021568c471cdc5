import re

from tasks.lineage_graph import lineage_graph
from tasks.svg import attempt_colour
from tests.support.made_up_reports import Life, killed_twice, made_up_report
from tests.support.svg_elements import NS, parse, texts


def drawn(report):
    return parse(lineage_graph(report))


def dots(root):
    """Place of every version's mark, by lane."""
    found: dict[str, list[float]] = {}
    for element in root:
        if element.attrib.get("href", "#o") != "#o":
            found.setdefault(element.attrib["y"], []).append(float(element.attrib["x"]))
    return list(found.values())


def many(attempts, versions):
    lives = [Life(until=versions * 100 + 37, outcome="crashed")]
    for index in range(1, attempts):
        until = (index + 1) * versions * 100 + 37
        lives.append(Life(resumed_from=str(index * versions), until=until, outcome="crashed"))
    return made_up_report(lives)


def test_every_attempt_is_a_lane_of_its_versions():
    assert [len(lane) for lane in dots(drawn(killed_twice()))] == [5, 3, 5]


def test_a_version_done_again_lies_below_its_first_try():
    first, second, _ = dots(drawn(killed_twice()))
    assert first[4] == second[0]


def test_an_edge_leads_from_the_resumed_version_to_the_next_lane():
    root = drawn(killed_twice())
    fourth = f"{dots(root)[0][3]:g}"
    edges = [
        e.attrib["d"]
        for e in root
        if e.attrib.get("stroke") == attempt_colour(2) and e.attrib["d"].startswith(f"M{fourth} ")
    ]
    assert any(re.fullmatch(r"M[\d.]+ [\d.]+V[\d.]+", path) for path in edges)


def test_an_edge_past_other_lanes_bows_around_their_versions():
    report = made_up_report(
        [
            Life(until=350, outcome="crashed"),
            Life(resumed_from="3", until=500, outcome="crashed"),
            Life(resumed_from="3", until=600),
        ]
    )
    curves = [e.attrib["d"] for e in drawn(report) if "C" in e.attrib.get("d", "")]
    assert len(curves) == 1


def test_lanes_carry_number_and_outcome():
    found = " ".join(texts(drawn(killed_twice())))
    for words in ("attempt 1crashed", "attempt 2failed", "attempt 3running"):
        assert words in found


def test_versions_carry_their_numbers():
    assert {str(n) for n in range(1, 14)} <= set(texts(drawn(killed_twice())))


def test_where_numbers_would_collide_only_round_ones_stay():
    report = made_up_report([Life(until=4000, outcome="completed")])
    numbers = [t for t in texts(drawn(report)) if t.isdecimal() and t not in {"0", "1"}]
    assert "10" in numbers
    assert "11" not in numbers


def test_a_fork_shows_where_it_comes_from():
    report = made_up_report([Life(resumed_from="o<t>her@7", until=950)], start_step=700)
    assert "from o<t>her@7" in texts(drawn(report))
    assert "version of another run" in texts(drawn(report))


def test_before_the_first_attempt_there_is_no_picture():
    assert lineage_graph(made_up_report([])) is None


def test_an_attempt_without_versions_has_a_lane():
    found = texts(drawn(made_up_report([Life(until=20)])))
    assert "attempt 1running" in found
    assert "not in any version" in found


def test_of_very_many_attempts_the_newest_are_drawn_and_the_rest_counted():
    found = texts(drawn(many(70, 2)))
    assert "attempts and their versions (the 10 before them are left out)" in found
    assert any(text.startswith("attempt 70") for text in found)
    assert not any(text.startswith("attempt 10") for text in found)


def test_a_parent_above_the_drawn_lanes_still_has_an_edge():
    root = drawn(many(61, 2))
    first_lane = attempt_colour(2)
    assert [e for e in root if e.attrib.get("stroke") == first_lane and "stroke-width" in e.attrib]


def test_every_lane_and_mark_lies_within_the_picture():
    for report in (killed_twice(), many(50, 10), many(2, 1)):
        root = drawn(report)
        height = float(root.attrib["height"])
        for element in root:
            if element.tag == f"{NS}use":
                assert 0 < float(element.attrib["y"]) < height
                assert 0 < float(element.attrib["x"]) < 760
