import json
import math

import pytest

from ray_workers.store.errors import InvalidInputError
from ray_workers.store.memory import MemoryStore
from ray_workers.store.registry import SCHEMA, encode, read_registry, registry_key
from ray_workers.store.registry_search import search
from ray_workers.store.strict_json import encode_float
from tests.support.registry_rows import synthetic_rows


@pytest.fixture(scope="module")
def large():
    """A hundred runs of a thousand versions."""
    store = MemoryStore()
    for index in range(100):
        run = f"run-{index:03d}"
        store.put(registry_key(run), encode(synthetic_rows(run, 1000), run_id="x", slot=1))
    return read_registry(store)


@pytest.fixture(scope="module")
def small():
    store = MemoryStore()
    rows = synthetic_rows("a", 4)
    rows[3]["config_json"] = json.dumps({"lr": "auto", "model": 7, 'od"d name': 1})
    store.put(registry_key("a"), encode(rows, run_id="x", slot=1))
    return read_registry(store)


def found(table, condition, **options):
    rows = search(table, condition, **options)
    return list(zip(rows["run"].to_pylist(), rows["number"].to_pylist(), strict=True))


def test_a_hundred_thousand_versions_are_searched(large):
    assert large.num_rows == 100_000
    hits = found(large, "metrics.loss < 0.0011 and config.lr >= 1e-3 and run = 'run-007'")
    assert hits == [("run-007", number) for number in range(910, 1001)]
    assert len(found(large, "true", limit=5)) == 5
    assert found(large, "number = 1000", order="run desc", limit=1) == [("run-099", 1000)]


@pytest.mark.parametrize(
    ("condition", "numbers"),
    [
        ("metrics.loss <= 0.5", [2, 3, 4]),
        ("config.opt = 'adam' and config.model.layers = 2", [2]),
        ("rung = 'sound' and step between 20 and 30", [2, 3]),
        ("list_contains(tags, 'even')", [2, 4]),
        ("config_text.lr = 'auto'", [4]),
        ("config.lr is null", [4]),
        ("committed_at < '2027-01-01'", [1, 2, 3, 4]),
        ('config."od""d name" = 1', [4]),
        ("number = 1 or number = 2", [1, 2]),
        ("number > 3 -- newest", [4]),
    ],
)
def test_conditions(small, condition, numbers):
    assert [number for _, number in found(small, condition)] == numbers


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("metrics.loss <", "syntax error"),
        ("nothing = 1", "nothing"),
        ("1=1; drop table x", "syntax error"),
        ("1=1) union select (1", "cannot be used"),
        ("(select count(*) from read_csv('/etc/passwd')) > 0", "disabled by configuration"),
        ("(select count(*) from 'pyproject.toml') > 0", "cannot be used"),
        ("(select count(*) from table) > 0", "cannot be used"),
        ("rung", "cannot be used"),
    ],
)
def test_a_bad_condition_is_one_sentence_that_says_where(small, condition, told):
    with pytest.raises(InvalidInputError) as caught:
        search(small, condition)
    assert told in caught.value.message
    assert "Write an SQL expression" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("condition", ["metrics.los < 1", "Config.lrr > 0", "metrics.lo < 1"])
def test_a_name_that_no_version_has_is_told_with_those_that_there_are(small, condition):
    with pytest.raises(
        InvalidInputError, match=r"^No version has (metrics|Config)\.lo?.*loss; .*lr,"
    ):
        search(small, condition)
    with pytest.raises(InvalidInputError, match="No version has"):
        search(small, "true", order="metrics.los desc")
    assert search(small.slice(0, 0), "true").num_rows == 0


def test_what_stands_in_a_text_is_no_name(small):
    assert (
        search(small, "run <> 'metrics.nothing' and run <> 'it''s config.x'").num_rows
        == small.num_rows
    )


def test_a_variable_of_this_process_cannot_be_reached(small):
    hidden = small  # DuckDB would find it by this name if it were allowed to look
    with pytest.raises(InvalidInputError, match="hidden"):
        search(hidden, "(select count(*) from hidden) > 0")


def table_of(*runs):
    """A registry of runs with one version each; a run is its metrics and its hyperparameters."""
    store = MemoryStore()
    for name, (metrics, config) in zip("abcdef", runs, strict=False):
        (row,) = synthetic_rows(name, 1)
        row["metrics_json"] = json.dumps({n: encode_float(v) for n, v in metrics.items()})
        row["config_json"] = json.dumps(config)
        store.put(registry_key(name), encode([row], run_id="x", slot=1))
    return read_registry(store)


def hits(table, condition, **options):
    return "".join(run for run, _ in found(table, condition, **options))


def test_names_that_differ_in_case_alone_are_one():
    table = table_of(
        ({"Loss": 0.5}, {"LR": 0.1, "Model": {"Layers": 2}}),
        ({"loss": 0.25, "LOSS": 9.0}, {"lr": "auto", "model": {"layers": 3}}),
        ({"loss": 0.75}, {"Lr": 0.2, "model": 7}),
    )
    assert hits(table, "true") == "abc"
    assert hits(table, "metrics.loss <= 0.5") == "a"
    assert hits(table, "metrics.LOSS > 0.6", order="metrics.loss desc") == "bc"
    assert hits(table, "config.lr > 0") == "ac"
    assert hits(table, "config_text.LR = 'auto'") == "b"
    assert hits(table, "config.model.layers >= 2") == "ab"


def test_letters_beyond_ascii_are_told_apart():
    table = table_of(({"é": 1.0}, {}), ({"É": 2.0}, {}))
    assert (hits(table, "metrics.é = 1"), hits(table, "metrics.É = 2")) == ("a", "b")


def test_names_that_sql_cannot_say_hinder_nobody():
    table = table_of(
        ({"": 1.0, "loss": 0.5}, {"": 1, "a": {"": 2, "b": 3}, "x\0y": 1, "x\0z": "t"})
    )
    assert hits(table, "metrics.loss = 0.5 and config.a.b = 3") == "a"


def test_nan_satisfies_no_comparison_and_is_last_in_every_order():
    table = table_of(
        ({"acc": 0.5}, {}), ({"acc": math.nan}, {}), ({"acc": 0.9}, {}), ({"acc": math.inf}, {})
    )
    assert hits(table, "metrics.acc > 0.6") == "cd"
    assert hits(table, "metrics.acc <= 0.6") == "a"
    assert hits(table, "true", order="metrics.acc desc") == "dcab"
    assert hits(table, "true", order="metrics.acc") == "acdb"
    assert hits(table, "metrics.acc is null") == "b"
    assert hits(table, """metrics_json like '%"acc": {"$float": "nan"}%'""") == "b"


def test_an_empty_registry_answers_nothing():
    assert search(SCHEMA.empty_table(), "step > 1").num_rows == 0
