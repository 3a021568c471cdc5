"""docs/registry.md against the registry: every column with its type, and every way of reading it that the page tells."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from ray_workers.store.registry import REGISTRY_FORMAT, SCHEMA, read_registry, refresh_all
from tests.support.factories import MadeUpRun, folder_store

PAGE = Path(__file__).parents[2] / "docs" / "registry.md"
TYPES = {
    "text": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(),
    "list of text": pa.list_(pa.string()), "timestamp (µs, UTC)": pa.timestamp("us", tz="UTC"),
}  # fmt: skip


def documented():
    """Column to type, in the page's order."""
    for names, types in re.findall(r"^\| (`.+?`) \| (.+?) \| .* \|$", PAGE.read_text(), re.MULTILINE):  # fmt: skip
        columns = re.findall(r"`([^`]+)`", names)
        kinds = types.split(", ") if types not in TYPES else [types] * len(columns)
        assert len(columns) == len(kinds), names
        yield from zip(columns, kinds, strict=True)


def test_the_page_names_every_column_and_its_type_and_no_other():
    found = dict(documented())
    fixed = {name: TYPES[kind] for name, kind in found.items() if "NAME" not in name}
    assert fixed == {field.name: field.type for field in SCHEMA}
    assert f'"format": {REGISTRY_FORMAT},' in PAGE.read_text()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """`pawl-store` in the current folder: two runs with different typed columns."""
    store = folder_store(tmp_path / "pawl-store")
    digits = MadeUpRun(store=store)
    digits.start()
    digits.commit(10, metrics={"loss": 0.1}, config={"lr": 0.1, "amp": True})
    digits.commit(20, metrics={"loss": 0.5}, config={"lr": 0.1, "amp": True})
    other = MadeUpRun(store=store, name="other")
    other.start()
    other.commit(10, metrics={"f1": 0.5}, config={"opt": "adam"})
    refresh_all(store)
    monkeypatch.chdir(tmp_path)
    return store


def test_typed_columns_have_the_types_of_the_page(root):
    types = {field.name: field.type for field in read_registry(root).schema}
    patterns = {n.replace("NAME", ""): TYPES[k] for n, k in documented() if "NAME" in n}
    assert set(patterns) == {"metrics.", "config.", "config_text."}
    typed = {name: kind for name, kind in types.items() if name not in SCHEMA.names}
    assert set(typed) == {"metrics.loss", "metrics.f1", "config.lr", "config.amp", "config_text.opt"}  # fmt: skip
    for name, kind in typed.items():
        assert kind == patterns[name.partition(".")[0] + "."]


@pytest.mark.parametrize("reader", ["duckdb", "pyarrow", "pandas"])
@pytest.mark.usefixtures("root")
def test_what_the_page_says_of_reading_without_pawl_works(reader):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (code,) = [block for block in blocks if re.search(rf"^import .*{reader}", block, re.MULTILINE) and block.startswith(f"# {reader}")]  # fmt: skip
    seen: dict[str, object] = {}
    exec(code, seen)  # noqa: S102 - the page's own code is what is tested
    frame = seen["frame"]
    assert list(frame["number"]) == ([1] if reader == "duckdb" else [1, 2, 1] if reader == "pyarrow" else [1, 2])  # type: ignore[index] # fmt: skip
    assert next(iter(frame["metrics.loss"])) == 0.1  # type: ignore[index]
