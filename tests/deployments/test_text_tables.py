import math

import click
import pytest

from deployments.text_tables import (
    brief,
    bytes_text,
    counted,
    fine_seconds_text,
    moment,
    number_text,
    pairs,
    printable,
    table,
)


def test_columns_are_as_wide_as_their_widest_cell():
    text = click.unstyle(table(("A", "NUMBER"), [["long name", "1"], ["x", "22"]], right=(1,)))
    assert text.splitlines() == ["A          NUMBER", "long name       1", "x              22"]


def test_colours_take_no_width():
    red = click.style("ab", fg="red")
    lines = table(("A", "B"), [[red, "x"], ["abc", "y"]]).splitlines()
    assert [click.unstyle(line) for line in lines] == ["A    B", "ab   x", "abc  y"]


def test_of_keys_and_digests_a_table_has_what_tells_them_apart():
    key = f"runs/digits/shards/{23:020d}/{'a6d5f3b4' * 4}.safetensors"
    digests = [f"xxh3-128:{part * 4}" for part in ("6b8de1dc", "e06d4673")]
    reason = (
        f"{key} is damaged: its bytes have the digest {digests[0]}, but {digests[1]} was written."
    )
    assert brief(reason) == (
        "shard a6d5f3b4… is damaged: its bytes have the digest xxh3-128:6b8de1dc…, but xxh3-128:e06d4673… was written."
    )
    assert brief("the loss jumped") == "the loss jumped"
    assert len(brief("word " * 100)) == 110


def test_long_values_are_wrapped_under_their_beginning():
    lines = pairs({"name": "word " * 40, "x": "1"}).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("      word")
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0065, "6.5 ms"), (1.25, "1.25 s"), (164, "164 s"), (720, "12 min")]
)
def test_milliseconds_and_minutes(seconds, shown):
    assert fine_seconds_text(seconds) == shown


def test_one_and_many():
    assert (counted(1, "run"), counted(0, "run"), counted(2, "run")) == (
        "1 run",
        "0 runs",
        "2 runs",
    )


def test_pairs_leave_out_what_is_empty():
    assert pairs({"step": "3", "tags": "", "loss": "0.5"}) == "step  3\nloss  0.5"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a [31mb"),
        ("a\nb\tc", "a b c"),
        ("\x07\u202e", ""),
        ("x" * 300, "x" * 199 + "…"),
    ],
)
def test_a_stored_text_cannot_steer_the_terminal(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (2_500_000, "2.5 MB"),
        (3e9, "3.0 GB"),
        (4e15, "4000.0 TB"),
    ],
)
def test_sizes_are_decimal(size, text):
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("2026-11-24T04:16:13.853+00:00", "2026-11-24 04:16:13"), (None, "-"), ("soon", "soon")],
)
def test_times_are_to_the_second(text, shown):
    assert moment(text) == shown


@pytest.mark.parametrize(("value", "text"), [(0.1, "0.1"), (1 / 3, "0.33333"), (math.nan, "nan")])
def test_numbers_are_short(value, text):
    assert number_text(value) == text
