import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.markdown_text import (
    DASH,
    bytes_text,
    code,
    duration,
    flat_config,
    moment,
    plain,
    real,
    seconds_between,
    short_reason,
    spans,
    table,
)


def test_markup_and_html_are_disarmed():
    text = plain("<img src=x onerror=y> [a](javascript:b) `c` **d** | e\n# f")
    assert "<" not in text
    assert "\n" not in text
    for sign in "[]()`*|#":
        assert text.count(sign) == text.count(f"\\{sign}")


@given(st.text())
def test_no_text_breaks_out_of_its_row(text):
    for cell in (plain(text), code(text)):
        row = table(("a",), ((cell,),)).split("\n")
        assert len(row) == 3
        assert row[2].replace("\\\\", "").replace("\\|", "").count("|") == 2


def test_direction_overrides_and_control_characters_are_dropped():
    assert plain("a\u202eb\x1bc") == "a b c"


def test_text_is_cut_before_it_is_escaped():
    assert plain("*" * 10, 4) == "\\*\\*\\*…"


def test_an_address_is_code_not_a_link():
    shown = plain("cannot reach http://127.0.0.1:9000/my_bucket, or (www.evil.org)")
    assert shown == "cannot reach `http://127.0.0.1:9000/my_bucket,` or \\(`www.evil.org)`"


def test_code_has_no_backticks_inside():
    assert code("a`b|c") == "`a'b\\|c`"
    assert code("") == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, DASH),
        (float("nan"), DASH),
        (0.314, "0.31 s"),
        (41.2, "41 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3661, "1 h 1 min"),
        (2 * 86_400, "2 d"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12, "12 B"),
        (84_312, "84.3 kB"),
        (1_500_000, "1.5 MB"),
        (999_900, "1,000 kB"),
        (3e12, "3 TB"),
    ],
)
def test_sizes(value, text):
    assert bytes_text(value).replace("\u00a0", " ") == text


def test_numbers():
    shown = [real(x) for x in (None, 1.0, 0.071642, 1234.5, float("nan"), float("-inf"))]
    assert shown == [DASH, "1.00", "0.0716", "1.23e+03", "NaN", "-inf"]


def test_moments():
    assert moment("2026-11-24T02:40:00+00:00").replace("\u00a0", " ") == "24 Nov 02:40:00"
    assert moment(None) == DASH
    assert moment("yesterday") == "yesterday"


def test_time_between_two_moments():
    assert seconds_between("2026-11-24T02:40:00Z", "2026-11-24T02:41:30Z") == 90
    assert seconds_between("2026-11-24T02:40:00Z", "2026-11-24T02:39:00Z") is None
    assert seconds_between(None, "2026-11-24T02:39:00Z") is None
    assert seconds_between("2026-11-24T02:40:00", "2026-11-24T02:41:00Z") is None


def test_nested_settings_become_dotted_names():
    config = {"optimizer": {"lr": 0.001, "betas": [0.9, 0.99]}, "name": "a", "empty": {}}
    assert flat_config(config) == {
        "empty": "{}",
        "name": "a",
        "optimizer.betas": "[0.9, 0.99]",
        "optimizer.lr": "0.001",
    }


def test_columns_align_as_asked():
    assert table(("a", "b"), (("1", "2"),), right="1").split("\n")[1] == "| --- | ---: |"


def test_a_long_key_may_break_at_its_slashes_and_a_short_one_does_not():
    key = "runs/digits/shards/00000000000000000002/90cfdd67999344e097cd6e2fdcf5ee97.safetensors"
    zero_width = "\N{ZERO WIDTH SPACE}"
    shown = plain(f"{key} is damaged: runs/a/b")
    assert shown.count(zero_width) == 4
    assert shown.replace(zero_width, "").replace("\\", "") == f"{key} is damaged: runs/a/b"


def test_of_keys_and_digests_a_page_has_what_tells_them_apart():
    key = f"runs/digits/shards/{23:020d}/{'a6d5f3b4' * 4}.safetensors"
    reason = f"{key} is damaged: its bytes have the digest sha256:{'6b8de1dc' * 8}."
    assert short_reason(reason) == (
        "shard a6d5f3b4… is damaged: its bytes have the digest sha256:6b8de1dc…."
    )
    assert (
        short_reason("loss 0.5, step 12345678901234567890") == "loss 0.5, step 12345678901234567890"
    )


def test_what_stands_in_backticks_becomes_code_and_the_rest_is_disarmed():
    assert spans("run `pawl train` again, or *x*") == "run `pawl train` again, or \\*x\\*"
    assert spans("`a|b` <i>") == "`a\\|b` &lt;i&gt;"
    assert spans("one ` alone") == "one \\` alone"
    assert spans("word `pawl train` again", 12) == plain("word `pawl train` again", 12)
