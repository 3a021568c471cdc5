import hashlib
import json

import pytest

from ray_workers.store.fold_cache import OtherFoldError, decode_cache, encode_cache
from ray_workers.store.memory import MemoryStore
from ray_workers.store.records import canonical_json
from tests.support.factories import MadeUpRun


@pytest.fixture
def state():
    made = MadeUpRun(store=MemoryStore(), ranks=1)
    made.start()
    made.commit(10)
    made.judge(1)
    made.tag("best", 1)
    made.start(1, passed_over={1: "why not"})
    made.fork(1, "child")
    return made.log.refresh()


def decoded(state, data):
    return decode_cache(data, run=state.run, slot=state.slot, head=state.head)


def sealed(content):
    rest = {name: value for name, value in content.items() if name != "digest"}
    return canonical_json({**rest, "digest": hashlib.sha256(canonical_json(rest)).hexdigest()})


def test_a_state_comes_back_as_it_was(state):
    assert decoded(state, encode_cache(state)) == state


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("open_fence",), "2"),
        (("damaged",), [None]),
        (("tags", "best"), "1"),
        (("versions", "1", "number"), True),
        (("versions", "1", "passed"), "sound"),
        (("versions", "1", "norm"), "large"),
        (("versions", "1", "manifest"), None),
        (("versions", "x"), {}),
        (("attempts", "2", "by"), []),
        (("attempts", "2", "passed_over"), {}),
        (("attempts", "2", "resume"), [1]),
        (("attempts", "2", "last_step"), 1.5),
        (("pins",), None),
        (("origin",), "run"),
    ],
)
def test_a_value_of_another_type_makes_no_state_although_the_digest_holds(state, place, value):
    content = json.loads(encode_cache(state))
    holder = content["state"]
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = value
    with pytest.raises(ValueError, match=r"value|list|cache|invalid literal"):
        decoded(state, sealed(content))


def test_a_field_too_many_or_too_few_makes_no_state(state):
    for change in (lambda s: s.update(extra=1), lambda s: s.pop("deleted")):
        content = json.loads(encode_cache(state))
        change(content["state"])
        with pytest.raises(ValueError, match="no fold cache"):
            decoded(state, sealed(content))


def test_another_fold_is_no_damage(state):
    content = json.loads(encode_cache(state))
    content["fold_version"] -= 1
    with pytest.raises(OtherFoldError):
        decoded(state, sealed(content))


@pytest.mark.parametrize("wrong", [{"slot": 1}, {"head": "0" * 64}, {"run": "other"}])
def test_a_cache_of_another_place_is_refused(state, wrong):
    named = {"run": state.run, "slot": state.slot, "head": state.head, **wrong}
    with pytest.raises(ValueError, match=r"belong|another run"):
        decode_cache(encode_cache(state), **named)


def test_a_digest_that_does_not_hold_is_refused(state):
    with pytest.raises(ValueError, match="digest"):
        decoded(state, encode_cache(state).replace(b'"fork', b'"folk').replace(b"child", b"chill"))
