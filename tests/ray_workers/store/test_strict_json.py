import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_workers.store.strict_json import Fields, decode_float, encode_float, parse_json

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_reads_what_json_writes(value):
    assert parse_json(json.dumps(value).encode(), limit=10**6) == value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a":1,"a":2}', "'a' stands twice"),
        (b'{"x":{"b":1,"c":0,"b":1}}', "'b' stands twice"),
        (b"NaN", "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"[-Infinity]", "-Infinity"),
        (b"1e999", "too large"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'"\xff"', "utf-8"),
        (b"9" * 5000, "integer"),
        (b"{} x", "Extra data"),
        (b"", "Expecting value"),
    ],
)
def test_refuses(data, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(data, limit=10**6)


def test_refuses_above_the_limit_before_parsing():
    with pytest.raises(ValueError, match="11 bytes of JSON, more than the limit of 10"):
        parse_json(b" " * 11, limit=10)


@given(st.floats())
def test_floats_come_back(value):
    encoded = encode_float(value)
    back = decode_float(json.loads(json.dumps(encoded, allow_nan=False)))
    assert back == value or (math.isnan(back) and math.isnan(value))


@pytest.mark.parametrize("value", ["1", True, None, {"$float": "1"}, {"$float": "nan", "x": 1}, []])
def test_decode_float_refuses(value):
    with pytest.raises(ValueError, match="expected a number"):
        decode_float(value)


def test_fields_are_taken_by_type():
    with Fields(
        {"i": 1, "t": "x", "b": True, "m": {"k": 1.5}, "n": {"k": "v"}, "l": [1, 2]}, "here"
    ) as fields:
        assert fields.integer("i") == 1
        assert fields.text("t") == "x"
        assert fields.boolean("b") is True
        assert fields.floats("m") == {"k": 1.5}
        assert fields.texts("n") == {"k": "v"}
        assert fields.integers("l") == (1, 2)


def test_left_over_field_is_refused():
    with (
        pytest.raises(ValueError, match="here: unknown field 'b'"),
        Fields({"a": 1, "b": 2}, "here") as fields,
    ):
        fields.integer("a")


def test_missing_field_is_refused():
    with pytest.raises(ValueError, match="here: the field 'a' is missing"):
        Fields({}, "here").take("a")


def test_an_error_inside_is_not_hidden_by_left_over_fields():
    with (
        pytest.raises(ValueError, match="expected an integer from 0"),
        Fields({"a": -1, "b": 2}, "here") as fields,
    ):
        fields.integer("a")


@pytest.mark.parametrize("value", [True, -1, 1.0, "1", None])
def test_integer_refuses(value):
    with pytest.raises(ValueError, match="expected an integer from 0"):
        Fields({"a": value}, "here").integer("a")


@pytest.mark.parametrize("value", [[], None, "x", 1])
def test_only_an_object_has_fields(value):
    with pytest.raises(ValueError, match="expected an object"):
        Fields(value, "here")


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_an_integer_that_no_float_can_hold_is_refused(value):
    with pytest.raises(ValueError, match="too large"):
        decode_float(value)


@pytest.mark.parametrize("value", [2**63, 10**30])
def test_a_count_beyond_all_tables_is_refused(value):
    with pytest.raises(ValueError, match="from 0 to 2"):
        Fields({"n": value}, "here").integer("n")
    assert Fields({"n": 2**63 - 1}, "here").integer("n") == 2**63 - 1
