"""FORMAT.md against the code: its tables, its example store, its test vectors, and who cites it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ray_workers import state_join
from ray_workers.state_tree import join, split
from ray_workers.store import bodies, keys, manifest, opening, records, run_state, shards
from ray_workers.store.checksum import digest_of, known_algorithms
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.key_syntax import is_key
from ray_workers.store.log import CACHE_EVERY_SLOTS
from ray_workers.store.rules import _RULES
from ray_workers.store.strict_json import encode_float
from tests.ray_workers.store.test_manifest import FILES, STATE
from tests.support import format_document
from tests.support.format_document import citations, example_block, sections, table, vectors
from tests.support.format_example import example_objects

TEXT = format_document.read()
SECTIONS = sections(TEXT)
REPOSITORY = Path(__file__).parents[3]


def section(number: int) -> str:
    (found,) = [body for heading, body in SECTIONS.items() if heading.startswith(f"§{number} ")]
    return found


# --- the page itself --------------------------------------------------------------------------


def test_the_sections_are_numbered_and_each_gives_its_rationale():
    numbers = [heading.split()[0] for heading in SECTIONS if heading.startswith("§")]
    assert numbers == [f"§{n}" for n in range(1, 16)]
    for number in range(1, 16):
        assert section(number).count("**Rationale.**") == 1, number


def test_rules_are_numbered_without_gaps_and_every_reference_to_one_exists():
    rules = {
        n: [int(m) for m in re.findall(r"^(\d+)\. ", section(n), re.MULTILINE)]
        for n in range(1, 16)
    }
    for found in rules.values():
        assert found == list(range(1, len(found) + 1))
    for number, rule in re.findall(r"§(\d+), rules? (\d+)", TEXT):
        assert int(rule) in rules[int(number)], f"§{number}, rule {rule}"


@pytest.mark.parametrize("folder", ["ray_workers", "tasks", "flows", "deployments"])
def test_every_citation_in_the_code_names_sections_that_exist(folder):
    known = {f"§{n}" for n in range(1, 16)}
    wrong = [
        f"{path.relative_to(REPOSITORY)}: FORMAT.md {cited!r}"
        for path in (REPOSITORY / folder).rglob("*.py")
        for cited in citations(path.read_text(encoding="utf-8"))
        if not {part.strip() for part in cited.split(",")} <= known
    ]
    assert wrong == []


def test_a_citation_without_a_section_is_seen():
    assert citations("(FORMAT.md §5, §8). FORMAT.md, Shards. See FORMAT.md §16") == [
        "§5, §8",
        "",
        "§16",
    ]


# --- tables -----------------------------------------------------------------------------------

TYPES = {
    "int": "count",
    "str": "text",
    "bool": "truth",
    "str | None": "text or null",
    "Mapping[str, Any]": "object",
    "VersionName": "VersionName",
    "VersionName | None": "VersionName or null",
    "tuple[VersionName, ...]": "list of VersionName",
    "tuple[PassedOver, ...]": "list of PassedOver",
    "RunOrigin | None": "RunOrigin or null",
}
STRUCTS = (bodies.VersionName, bodies.PassedOver, bodies.RunOrigin)


def code_rows(kinds: dict[str, type]) -> set[tuple[str, str, str, str]]:
    """(kind, field, type, what it is when it lacks) as the code has it."""
    rows = set()
    for kind, cls in kinds.items():
        fields = dataclasses.fields(cls)
        rows |= {(kind, field.name, TYPES[str(field.type)], default_of(field)) for field in fields}
        rows |= set() if fields else {(kind, "—", "", "")}
    return rows


def default_of(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING or field.default == ():
        return "empty"
    return "null" if field.default is None else ""


def documented_rows() -> set[tuple[str, ...]]:
    return {row[:4] for row in table(section(4), "kind", "field")}


KINDS = bodies.BODY_KINDS | {cls.__name__: cls for cls in STRUCTS}


def test_every_field_of_every_record_kind_is_documented():
    assert documented_rows() == code_rows(KINDS)


def test_a_kind_without_documentation_is_seen():
    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Invented:
        fence: int

    assert documented_rows() != code_rows(KINDS | {"Invented": Invented})


@pytest.mark.parametrize("number", [5, 6])
def test_every_kind_has_its_effect_and_its_rule(number):
    header = {5: "effect", 6: "appended only if"}[number]
    kinds = [row[0] for row in table(section(number), "kind", header)]
    assert sorted(kinds) == sorted(bodies.BODY_KINDS)
    assert set(kinds) == {cls.kind for cls in _RULES}


def test_the_envelope_is_documented():
    assert {row[0] for row in table(section(3), "field", "type")} == set(records._ENVELOPE)


def test_the_state_is_documented():
    names = {field.name for field in dataclasses.fields(run_state.RunState)} - {"run", "created_at"}
    assert {row[0] for row in table(section(5), "part", "begins as")} == names


OPAQUE = ("config", "plain", "rank_plain[]")
NAMED = ("metrics", "curve", "environment", "durations", "tensors")


def paths(value: Any, path: str = "") -> set[str]:
    """Every leaf of a manifest's JSON; `*` for a name that is free, `[]` for an item of a list."""
    if path in OPAQUE or set(value if isinstance(value, dict) else ()) == {"$float"}:
        return {path}
    if isinstance(value, list):
        return set().union(*(paths(item, f"{path}[]") for item in value))
    if not isinstance(value, dict):
        return {path}
    found = set()
    for name, item in value.items():
        step = "*" if path in NAMED else name
        found |= paths(item, f"{path}.{step}" if path else name)
    return found


def test_every_field_of_a_manifest_is_documented():
    shown = paths(json.loads(STATE.to_bytes())) | paths(json.loads(FILES.to_bytes()))
    documented = {row[0] for row in table(section(10), "field", "type")}
    assert documented == shown - {"parent"}  # null in one of the two, an object in the other


def test_a_manifest_field_without_documentation_is_seen():
    raw = json.loads(STATE.to_bytes())
    raw["shards"][0]["host"] = "x"
    assert not paths(raw) <= {row[0] for row in table(section(10), "field", "type")}


def test_the_tensor_types_are_documented():
    rows = table(section(11), "bits", "types")
    documented = {
        name: int(bits) for bits, names in rows for name in names.replace("`", "").split()
    }
    assert documented == shards.DTYPE_BITS


def test_the_markers_are_documented():
    documented = {row[0] for row in table(section(12), "marker", "content")}
    assert documented == set(state_join._Joiner({})._decoders)


def test_the_digest_algorithms_are_documented():
    documented = {row[0] for row in table(section(11), "algorithm")}
    assert documented == {*known_algorithms(), "blake3"}


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (1, f"{opening.FORMAT} on this page"),
        (3, f"at most {records.MAX_RECORD_BYTES} bytes"),
        (3, f"record's meaning; {records.RECORD_FORMAT} on this page"),
        (5, f"`fold_version` {run_state.FOLD_VERSION} belongs"),
        (5, f"does so when {CACHE_EVERY_SLOTS} slots or more"),
        (7, ", ".join(f"`{rung}`" for rung in run_state.RUNGS)),
        (10, f"at most {manifest.MAX_MANIFEST_BYTES} bytes"),
        (10, f"version of the manifest: {manifest.MANIFEST_FORMAT}"),
        (10, f"at most {manifest.MAX_CURVE_POINTS}."),
        (11, f"H is at most {shards.MAX_HEADER_BYTES}"),
        (12, f"nest at most {state_join.MAX_DEPTH} deep"),
    ],
)
def test_limits_are_those_of_the_code(number, says):
    assert says in " ".join(section(number).split())


# --- the example store ------------------------------------------------------------------------


def test_the_example_store_is_what_the_code_writes():
    made = example_objects()
    assert format_document.examples(TEXT) == made
    for key, data in made.items():
        assert example_block(key, data) in TEXT, key


def test_the_example_record_has_the_digest_it_says():
    raw = json.loads(example_objects()["runs/demo/log/00000000000000000004.json"])
    digest = raw.pop("digest")
    assert hashlib.sha256(records.canonical_json(raw)).hexdigest() == digest


# --- test vectors -----------------------------------------------------------------------------


def test_canonical_vectors():
    for vector in vectors(TEXT, "canonical"):
        made = records.canonical_json(json.loads(vector["json"]))
        assert made.decode() == vector["canonical"]
        assert hashlib.sha256(made).hexdigest() == vector["sha256"]


def test_name_vectors():
    for vector in vectors(TEXT, "names"):
        legal = is_key(vector["key"]) if "key" in vector else is_run_name(vector["run"])
        assert legal is vector["legal"], vector


def is_run_name(name: str) -> bool:
    try:
        keys.check_run_name(name)
    except InvalidInputError:
        return False
    return True


def test_digest_vectors():
    for vector in vectors(TEXT, "digests"):
        data = bytes.fromhex(vector.pop("hex"))
        assert vector == {name: digest_of(data, name) for name in ("xxh3-128", "sha256")}


def test_typed_json_vectors():
    names = {
        "torch": torch, "numpy": np, "OrderedDict": OrderedDict, "Counter": Counter, "float": float,
        "frozenset": frozenset, "bytes": bytes,
    }  # fmt: skip
    seen: set[str] = set()
    for vector in vectors(TEXT, "typed"):
        code = compile(vector["python"], "FORMAT.md", "eval")
        value = eval(code, {}, names)  # noqa: S307 - our own page
        state = split(value, prefix="p")
        assert state.plain == vector["json"]
        assert split(join(state.plain, state.tensors), prefix="p").plain == vector["json"]
        seen |= set(re.findall(r"\$[a-z_]+", json.dumps(vector["json"])))
    assert seen - {"$x"} == {row[0] for row in table(section(12), "marker", "content")}


def test_floats_that_json_lacks_are_spelled_as_the_page_says():
    for value in (float("nan"), float("inf"), float("-inf")):
        spelled = json.dumps(encode_float(value), separators=(",", ":"))
        assert f"`{spelled}`" in section(10)
