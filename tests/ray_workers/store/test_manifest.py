import hashlib
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_workers.store.errors import InvalidInputError, MalformedObjectError, NewerFormatError
from ray_workers.store.manifest import (
    MAX_CURVE_POINTS,
    Chunk,
    Curve,
    FileEntry,
    Manifest,
    Progress,
    ShardEntry,
    TensorLayout,
    VersionRef,
    check_coverage,
)


def shard(index=0, size=1000):
    return ShardEntry(
        rank=index,
        key=f"runs/r/shards/{1:020d}/{index:032x}.safetensors",
        bytes=size,
        digest="xxh3-128:" + "0" * 32,
    )


def tensor(*chunks):
    return TensorLayout(dtype="F32", shape=(4, 2), chunks=chunks)


def chunk(row=0, rows=4, shard=0, name="t"):
    return Chunk(offsets=(row, 0), shape=(rows, 2), shard=shard, name=name)


STATE = Manifest(
    payload="state",
    run_id="a" * 32,
    fence=7,
    write_id="w",
    created_at="2026-11-24T01:02:03.456789+00:00",
    parent=VersionRef(run="other", number=3, digest="b" * 64),
    progress=Progress(step=10, epoch=1, finished=False, epochs_wanted=6),
    world_size=2,
    shards=(shard(0), shard(1)),
    metrics={"loss": 0.25, "bad": math.nan, "worse": -math.inf},
    curve={"loss": Curve(steps=(1, 2), values=(0.5, math.inf))},
    config={"lr": 1e-3, "name": "ü", "nested": {"list": [1, None, True]}},
    environment={"torch": "2.13.0"},
    plain={"model": {"w": {"$tensor": "shared/model/w"}}},
    rank_plain=({"rng": 1}, {"rng": 2}),
    tensors={"shared/model/w": tensor(chunk(0, 2), chunk(2, 2, shard=1))},
    durations={"stage": 0.01},
)
FILES = replace(
    STATE, payload="files", parent=None, plain=None, rank_plain=(), tensors={},
    files=(FileEntry(path="sub/model.pt", shard=0, name="sub/model.pt", bytes=12),),
)  # fmt: skip


def changed(**fields):
    raw = json.loads(STATE.to_bytes())
    for path, value in fields.items():
        *parents, last = path.split("__")
        target = raw
        for parent in parents:
            target = target[int(parent) if parent.isdigit() else parent]
        if value is ...:
            del target[last]
        else:
            target[last] = value
    return json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


# --- both ways ----------------------------------------------------------------------------------


@pytest.mark.parametrize("manifest", [STATE, FILES], ids=["state", "files"])
def test_both_ways(manifest):
    data = manifest.to_bytes()
    back = Manifest.from_bytes(data)
    assert back.to_bytes() == data
    assert math.isnan(back.metrics["bad"])
    assert replace(back, metrics={}) == replace(manifest, metrics={})
    check_coverage(back)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(
    plain=json_values,
    config=st.dictionaries(st.text(st.characters(codec="utf-8")), json_values),
    loss=st.floats(),
)
def test_any_json_and_any_float_come_back(plain, config, loss):
    manifest = replace(STATE, plain=plain, config=config, metrics={"loss": loss})
    back = Manifest.from_bytes(manifest.to_bytes())
    assert (back.plain, back.config) == (plain, config)
    assert back.metrics["loss"] == loss or math.isnan(loss)
    assert back.digest == manifest.digest


def test_digest_is_sha256_of_the_bytes():
    assert STATE.digest == hashlib.sha256(STATE.to_bytes()).hexdigest()


def test_order_of_keys_does_not_change_the_bytes():
    turned = replace(STATE, metrics=dict(reversed(list(STATE.metrics.items()))))
    assert turned.to_bytes() == STATE.to_bytes()


def test_optional_fields_may_be_null():
    manifest = replace(STATE, parent=None, progress=replace(STATE.progress, epochs_wanted=None))
    assert Manifest.from_bytes(manifest.to_bytes()).parent is None


# --- strictness ---------------------------------------------------------------------------------

FIELDS = sorted(json.loads(STATE.to_bytes()))


def test_the_unchanged_test_document_is_read():
    assert Manifest.from_bytes(changed()).fence == 7


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_refused(field):
    with pytest.raises(MalformedObjectError):
        Manifest.from_bytes(changed(**{field: ...}))


@pytest.mark.parametrize("field", [f for f in FIELDS if f != "plain"])
@pytest.mark.parametrize("value", [{"no": "such"}, [[]], "x", -1, 0.5, True], ids=repr)
def test_a_value_of_another_type_is_refused(field, value):
    legal: dict[str, list[object]] = {
        "config": [{"no": "such"}], "environment": [{"no": "such"}], "rank_plain": [[[]]],
        "run_id": ["x"], "write_id": ["x"],
    }  # fmt: skip
    if value in legal.get(field, []):
        Manifest.from_bytes(changed(**{field: value}))
    else:
        with pytest.raises(MalformedObjectError):
            Manifest.from_bytes(changed(**{field: value}))


@pytest.mark.parametrize(
    "fields",
    [
        {"surprise": 1},
        {"progress__surprise": 1},
        {"shards__0__surprise": 1},
        {"parent__surprise": 1},
        {"tensors__shared/model/w__surprise": 1},
        {"curve__loss__surprise": []},
        {"progress__step": -1},
        {"progress__finished": 1},
        {"progress__epochs_wanted": -1},
        {"parent__digest": "B" * 64},
        {"parent__number": 0},
        {"parent__run": 3},
        {"fence": 0},
        {"world_size": 0},
        {"run_id": ""},
        {"write_id": ""},
        {"format": 0},
        {"format": True},
        {"format": "1"},
        {"payload": "code"},
        {"created_at": "yesterday"},
        {"created_at": "2026-11-24T01:02:03"},
        {"created_at": "2026-11-24T01:02:03+01:00"},
        {"metrics__loss": "0.25"},
        {"metrics__loss": {"$float": "1"}},
        {"curve__loss__steps": [1]},
        {"curve__loss__values": ["a", "b"]},
        {"shards__0__bytes": -1},
        {"shards__0__bytes": 1.0},
        {"payload": "files"},
        {"files": [{"path": "a", "shard": 0, "name": "a", "bytes": 1}]},
    ],
    ids=repr,
)
def test_wrong_values_are_refused(fields):
    with pytest.raises(MalformedObjectError, match="the-key is not a valid manifest"):
        Manifest.from_bytes(changed(**fields), key="the-key")


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/passwd", "a/../b", "a//b", "", ".", "a/", "a\\..\\b", "a\0b"],
    ids=repr,
)
def test_a_file_cannot_leave_its_folder(path):
    with pytest.raises(InvalidInputError, match="cannot be stored"):
        FileEntry(path=path, shard=0, name="x", bytes=1)
    raw = json.loads(FILES.to_bytes())
    raw["files"][0]["path"] = path
    with pytest.raises(MalformedObjectError, match="cannot be stored"):
        Manifest.from_bytes(json.dumps(raw).encode())


def test_a_newer_format_is_named():
    with pytest.raises(NewerFormatError, match="has format 2; this Pawl reads format 1"):
        Manifest.from_bytes(changed(format=2, surprise="of the future"))


@pytest.mark.parametrize(
    "spell",
    [
        json.dumps,
        lambda raw: json.dumps(raw, indent=1),
        lambda raw: json.dumps(dict(reversed(raw.items())), separators=(",", ":")),
        lambda raw: json.dumps(raw, sort_keys=True, separators=(",", ":")),
        lambda raw: json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False).replace("0.25", "2.5e-1"),
    ],
    ids=["spaces", "indented", "order", "escapes", "number"],
)  # fmt: skip
def test_another_spelling_is_refused(spell):
    with pytest.raises(MalformedObjectError, match="not spelled canonically"):
        Manifest.from_bytes(spell(json.loads(STATE.to_bytes())).encode())


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 10**6, b'{"format":1,"format":1}']
)
def test_other_bytes_are_refused(data):
    with pytest.raises(MalformedObjectError):
        Manifest.from_bytes(data)


@given(st.data())
def test_one_changed_byte_never_passes_unnoticed(data):
    raw = bytearray(STATE.to_bytes())
    index = data.draw(st.integers(0, len(raw) - 1))
    raw[index] ^= data.draw(st.integers(1, 255))
    try:
        found = Manifest.from_bytes(bytes(raw))
    except (MalformedObjectError, NewerFormatError):
        return
    assert found.digest != STATE.digest


# --- refused when made --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"fence": 0},
        {"world_size": 0},
        {"run_id": ""},
        {"payload": "x"},
        {"created_at": "now"},
        {"payload": "files"},
    ],
    ids=repr,
)
def test_construction_refuses(fields):
    with pytest.raises(InvalidInputError, match="manifest cannot be made"):
        replace(STATE, **fields)


@pytest.mark.parametrize(
    "config",
    [{"x": math.nan}, {"x": object()}, {"x": "\ud800"}, {1: 1, "a": 2}],
    ids=["nan", "object", "lone surrogate", "keys of two types"],
)
def test_a_configuration_that_is_no_json_is_refused(config):
    with pytest.raises(InvalidInputError, match="cannot be written as JSON"):
        replace(STATE, config=config).to_bytes()


def test_long_curves_are_refused():
    steps = tuple(range(MAX_CURVE_POINTS + 1))
    with pytest.raises(InvalidInputError, match="at most 400"):
        Curve(steps=steps, values=(0.0,) * len(steps))


def test_negative_progress_is_refused():
    with pytest.raises(InvalidInputError, match="negative"):
        Progress(step=-1, epoch=0, finished=False)


# --- coverage -----------------------------------------------------------------------------------


def test_coverage_of_a_whole_version():
    check_coverage(STATE)
    check_coverage(FILES)


BROKEN = {
    "row missing": (replace(STATE, tensors={"w": tensor(chunk(0, 2), chunk(3, 1, shard=1))}), "6 of 8 items"),
    "rows twice": (replace(STATE, tensors={"w": tensor(chunk(0, 3), chunk(2, 2, shard=1))}), "two chunks overlap"),
    "shard not listed": (replace(STATE, tensors={"w": tensor(chunk(shard=2))}), "lies in shard 2 of 2"),
    "name twice": (
        replace(STATE, tensors={"v": tensor(chunk()), "w": tensor(chunk())}), "'t' stands twice in shard 0",
    ),
    "foreign key": (replace(STATE, shards=(replace(shard(), key="../secret"), shard(1))), "no shard key"),
    "manifest as shard": (
        replace(STATE, shards=(replace(shard(), key=f"runs/r/manifests/{1:020d}/{'0' * 64}.json"), shard(1))),
        "no shard key",
    ),
    "no digest": (replace(STATE, shards=(replace(shard(), digest=""), shard(1))), "has no digest"),
    "shard too small": (replace(STATE, shards=(shard(size=15), shard(1))), "too small"),
    "unknown type": (replace(STATE, tensors={"w": replace(tensor(chunk()), dtype="C128")}), "unknown type"),
    "file in no shard": (replace(FILES, files=(replace(FILES.files[0], shard=9),)), "lies in shard 9 of 2"),
    "a file and a folder": (
        replace(FILES, files=(FILES.files[0], replace(FILES.files[0], path="sub", name="other"))),
        "'sub' is a file and a folder",
    ),
    "path twice": (
        replace(FILES, files=(FILES.files[0], replace(FILES.files[0], name="other"))), "two files have one path",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_not_whole_is_refused(case):
    manifest, reason = BROKEN[case]
    with pytest.raises(MalformedObjectError, match=reason) as caught:
        check_coverage(manifest, key="the-key")
    assert caught.value.details["key"] == "the-key"
