import hashlib
import math
from dataclasses import replace
from unittest import mock

import pytest

from ray_workers.store import keys
from ray_workers.store.bodies import RolledBack
from ray_workers.store.errors import (
    DigestMismatchError,
    InternalError,
    InvalidInputError,
    NewerFormatError,
    ObjectNotFoundError,
    VersionNotFoundError,
)
from ray_workers.store.run_state import VersionState
from ray_workers.store.versions import (
    UNREADABLE,
    best_version,
    find_version,
    load_manifest,
    parse_reference,
    verify_bytes,
)
from tests.support.factories import MadeUpRun, flip_byte, folder_store


@pytest.fixture
def run(tmp_path):
    made = MadeUpRun(store=folder_store(tmp_path))
    made.start()
    return made


@pytest.mark.parametrize(
    "version", ["1", "007", "latest", "sound", "best", "production", "v1.2-rc_3"]
)
def test_a_reference_names_run_and_version(version):
    assert parse_reference(f"my-run.2@{version}") == ("my-run.2", version)


@pytest.mark.parametrize(
    "text",
    ["digits", "digits@", "@3", "a@b@3", "digits@-1", "digits@ab-", "digits@" + "a" * 65, "digits@3.5", "digits@²", "Digits@3", "../x@1",
     "digits@" + "9" * 5000],
)  # fmt: skip
def test_what_names_no_version_is_refused_in_a_sentence(text):
    with pytest.raises(InvalidInputError) as caught:
        parse_reference(text)
    assert len(caught.value.message) < 400


def test_words_pick_among_what_is_readable_and_not_abandoned(run):
    for step in (10, 20, 30):
        run.commit(step)
    run.judge(1, 2, check="sound")
    state = run.log.refresh()
    assert find_version(state, "2").number == 2
    assert find_version(state, "latest").number == 3
    assert find_version(state, "sound").number == 2
    run.append(RolledBack(to=run.version(1).name))
    state = run.log.refresh()
    assert find_version(state, "latest").number == 1
    assert find_version(state, "sound").number == 1
    assert find_version(state, "3").abandoned


def test_a_tag_picks_its_version_and_missing_ones_are_told_with_those_there(run):
    run.commit(10)
    run.commit(20)
    run.tag("production", 1)
    assert find_version(run.log.refresh(), "production").number == 1
    with pytest.raises(VersionNotFoundError, match=r"no version 'prod'.*Its tags: production"):
        find_version(run.log.refresh(), "prod")


@pytest.mark.parametrize("version", ["4", "0", "sound"])
def test_a_version_that_is_not_there_is_named_with_those_that_are(run, version):
    run.commit(10)
    with pytest.raises(VersionNotFoundError, match=f"no version '{version}'.*: 1"):
        find_version(run.log.refresh(), version)


def test_the_best_needs_somebody_who_picks(run):
    run.commit(10)
    with pytest.raises(InternalError):
        find_version(run.log.refresh(), "best")


def test_the_best_goes_by_the_metric_and_takes_the_newer_of_equals(run):
    for step, loss in ((10, 0.5), (20, 0.25), (30, 0.25), (40, 0.75)):
        run.commit(step, metrics={"loss": loss, "accuracy": 1 - loss})
    state = run.log.refresh()

    def best(**options):
        return find_version(state, "best", best=best_version(run.store, "digits", **options)).number

    assert best() == 3
    assert best(mode="max") == 4
    assert best(metric="accuracy", mode="max") == 3


def test_the_best_is_never_nan_unmeasured_quarantined_or_damaged(run, tmp_path):
    run.commit(10, metrics={"loss": math.nan})
    run.commit(20, metrics={})
    run.commit(30, metrics={"loss": 0.9})
    run.commit(40, metrics={"loss": 0.1})
    run.commit(50, metrics={"loss": 0.2})
    run.commit(60, metrics={"loss": math.nan})
    run.judge(4, reason="jumped")
    flip_byte(tmp_path, run.manifest_key(5))
    picker = best_version(run.store, "digits")
    assert find_version(run.log.refresh(), "best", best=picker).number == 3


def test_no_usable_metric_means_no_best(run):
    run.commit(10)
    picker = best_version(run.store, "digits", metric="accuracy")
    with pytest.raises(VersionNotFoundError, match="'best'"):
        find_version(run.log.refresh(), "best", best=picker)


def test_a_damaged_manifest_is_a_digest_mismatch_wherever_the_flip_is(run, tmp_path):
    number = run.commit(10)
    version, key = run.version(number), run.manifest_key(number)
    for at in range(0, len(run.store.get(key)), 37):
        flip_byte(tmp_path, key, at)
        with pytest.raises(DigestMismatchError) as caught:
            load_manifest(run.store, "digits", version)
        assert caught.value.details["key"] == key
        flip_byte(tmp_path, key, at)
    assert load_manifest(run.store, "digits", version).progress.step == 10


def test_a_manifest_of_a_newer_pawl_is_no_damage(run):
    data = b'{"format":2}'
    digest = hashlib.sha256(data).hexdigest()
    run.store.put(keys.manifest_key("digits", run.fence, digest), data)
    version = VersionState(
        number=1, manifest=digest, fence=run.fence, slot=4, step=1, bytes=1, base=None, at=""
    )
    with pytest.raises(NewerFormatError):
        load_manifest(run.store, "digits", version)
    result, manifest = verify_bytes(run.store, "digits", version)
    assert (result.check, result.passed, manifest) == (UNREADABLE, False, None)


def test_one_bad_transfer_of_a_manifest_is_read_again(run):
    number = run.commit(10)

    store, reads = run.store, []

    def one_bad_read(key, **rest):
        reads.append(key)
        return b"{}" if len(reads) == 1 else store.get(key)

    flaky = mock.create_autospec(type(store), instance=True)
    flaky.get.side_effect = one_bad_read
    assert load_manifest(flaky, "digits", run.version(number)).progress.step == 10
    assert len(reads) == 2


def test_whole_bytes_verify_and_say_how_many(run):
    number = run.commit(10)
    result, manifest = verify_bytes(run.store, "digits", run.version(number))
    assert result.check == "verified"
    assert result.passed
    assert manifest is not None
    assert result.evidence["bytes"] == sum(entry.bytes for entry in manifest.shards)


def test_a_flipped_shard_and_a_missing_one_are_bad_bytes(run, tmp_path):
    number = run.commit(10)
    first, second = run.shard_keys(number)
    flip_byte(tmp_path, first)
    result, manifest = verify_bytes(run.store, "digits", run.version(number))
    assert (result.check, result.passed, manifest) == ("bytes", False, None)
    assert first in str(result.reason)
    flip_byte(tmp_path, first)
    run.store.delete(second)
    result, _ = verify_bytes(run.store, "digits", run.version(number))
    assert (result.check, result.passed) == ("bytes", False)


def test_a_manifest_that_is_not_there_is_said_so(run):
    number = run.commit(10)
    run.store.delete(run.manifest_key(number))
    with pytest.raises(ObjectNotFoundError):
        load_manifest(run.store, "digits", run.version(number))


@pytest.mark.parametrize("digest", ["../../x", "0" * 63, "A" * 64, "", "0/" + "0" * 62])
def test_a_name_that_is_no_digest_is_damage_and_no_key(run, digest):
    version = replace(run.version(run.commit(10)), manifest=digest)
    result, manifest = verify_bytes(run.store, "digits", version)
    assert (result.check, result.passed, manifest) == ("bytes", False, None)
    assert "no digest of a manifest" in str(result.reason)
