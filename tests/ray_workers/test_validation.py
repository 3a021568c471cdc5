"""The rungs *verified* and *sound*: what each check catches, and what it lets through."""

import copy
import math
import struct
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from ray_workers import measuring, validator_actor
from ray_workers.measuring import measure_shards
from ray_workers.state_tree import split
from ray_workers.store.bodies import Condemn, Retire
from ray_workers.store.checksum import digest_of
from ray_workers.store.errors import StoreUnavailableError, VersionGoneError
from ray_workers.store.keys import new_shard_key
from ray_workers.store.memory import MemoryStore
from ray_workers.store.opening import StorageTarget
from ray_workers.store.shards import ShardEntry, arrange, build_header
from ray_workers.training_state import TrainingParts, capture
from ray_workers.validation import SoundnessPolicy, record_verdicts, validate
from ray_workers.validator_actor import Validator
from tests.support.factories import MadeUpRun, folder_store
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.small_training import Killed, final_digests, patient_process, small_loop
from tests.support.versions import store_tensors

WEIGHT = ("shared/model/weight0", "F32", (4,))


@pytest.fixture
def run():
    made = MadeUpRun(store=MemoryStore(), name="run")
    made.start()
    made.commit(10)
    return made


def results_of(run, number=1, *, store=None, norm=None, ratio=10.0):
    version = run.version(number)
    policy = SoundnessPolicy(max_norm_ratio=ratio)
    state = copy.deepcopy(run.log.refresh())
    if norm is not None:
        state.versions[0] = replace(version, number=0, norm=norm)
    return validate(store or run.store, version, state=state, policy=policy)


def passed(results):
    return [(result.check, result.passed) for result in results]


def test_a_good_version_passes_both_checks_with_evidence(run):
    verified, sound = results_of(run)
    assert passed([verified, sound]) == [("verified", True), ("sound", True)]
    assert verified.evidence["bytes"] == sum(len(run.store.get(k)) for k in run.shard_keys(1))
    assert sound.evidence["tensors"] == 2
    assert math.isclose(sound.evidence["parameter_norm"], math.sqrt(8))


@pytest.mark.parametrize("which", ["manifest", "shard"])
@pytest.mark.parametrize("what", ["flipped", "deleted"])
def test_bad_or_missing_bytes_end_the_checks(run, which, what):
    key = run.manifest_key(1) if which == "manifest" else run.shard_keys(1)[1]
    data = run.store.get(key)
    run.store.delete(key)
    if what == "flipped":
        run.store.put(key, data[:-1] + bytes([data[-1] ^ 1]))
    (result,) = results_of(run)
    assert (result.check, result.passed) == ("bytes", False)
    assert key in result.reason


def test_a_transfer_gone_wrong_once_is_no_damage(run):
    calls = {"n": 0}

    def once(call):
        calls["n"] += call.verb == "get"
        return Fault.FLIP_BIT if call.verb == "get" and calls["n"] in {1, 3} else None

    assert passed(results_of(run, store=FaultyStore(run.store, once)))[-1] == ("sound", True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_not_sound(run, value):
    number = run.commit(20, content=value)
    verified, sound = results_of(run, number)
    assert passed([verified, sound]) == [("verified", True), ("sound", False)]
    assert "shared/model/weight0 holds 4 values that are NaN or infinite, of 4" in sound.reason


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.complex64,
    ],
)  # fmt: skip
def test_nan_is_seen_in_every_type_that_has_it(dtype):
    assert measuring._all_finite(torch.ones(3).to(dtype))
    bad = torch.tensor([1.0, math.nan, 1.0]).to(dtype)
    assert not measuring._all_finite(bad)
    assert "holds 1 values" in measuring._not_finite("x", bad)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integers_are_always_finite(dtype):
    assert measuring._all_finite(torch.ones(3).to(dtype))


@dataclass(slots=True, kw_only=True)
class OddShards(MadeUpRun):
    """Commits manifests that say other things than the shards hold; every digest is right."""

    holds: tuple[tuple[str, str, tuple[int, ...]], ...] = ()

    def _shard(self, rank, content):
        header = build_header(arrange(self.holds))
        data = header + struct.pack("<4f", *[content] * 4)
        key = new_shard_key(self.name, self.fence)
        self.store.put(key, data)
        return ShardEntry(rank=rank, key=key, bytes=len(data), digest=digest_of(data))


@pytest.mark.parametrize(
    "holds",
    [
        (("shared/model/other", "F32", (4,)),),
        (("shared/model/weight0", "F32", (2, 2)),),
        (("shared/model/weight0", "I32", (4,)),),
        (("shared/model/weight0", "F32", (3,)), ("shared/model/extra", "F32", (1,))),
    ],
    ids=["name", "shape", "type", "one too many"],
)
def test_shards_that_hold_something_else_are_not_sound(holds):
    run = OddShards(store=MemoryStore(), name="run", ranks=1, holds=holds)
    run.start()
    verified, sound = results_of(run, run.commit(10))
    assert passed([verified, sound]) == [("verified", True), ("sound", False)]
    assert "where the manifest says" in sound.reason


def test_shards_that_hold_what_the_manifest_says_are_sound():
    run = OddShards(store=MemoryStore(), name="run", ranks=1, holds=(WEIGHT,))
    run.start()
    assert passed(results_of(run, run.commit(10)))[-1] == ("sound", True)


def test_a_shard_that_is_no_safetensors_file_is_bad_bytes():
    @dataclass(slots=True, kw_only=True)
    class Garbage(MadeUpRun):
        def _shard(self, rank, content):
            data = b"\xff" * int(100 * content)
            key = new_shard_key(self.name, self.fence)
            self.store.put(key, data)
            return ShardEntry(rank=rank, key=key, bytes=len(data), digest=digest_of(data))

    run = Garbage(store=MemoryStore(), name="run", ranks=1)
    run.start()
    assert passed(results_of(run, run.commit(10))) == [("verified", True), ("bytes", False)]


@pytest.mark.parametrize(
    ("norm", "parent", "jumps"),
    [
        (1.0, None, False),
        (1.0, 1.0, False),
        (10.0, 1.0, False),
        (10.1, 1.0, True),
        (1.0, 10.1, True),
        (5.0, 0.0, False),  # an all-zero start is no parent to measure by
        (0.0, 5.0, False),
    ],
)
def test_the_jump_guard_looks_both_ways(norm, parent, jumps):
    assert (SoundnessPolicy().jump(norm, parent) is not None) is jumps


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64],
)
def test_the_norm_is_of_whole_values_in_every_type(dtype):
    values = [3 + 4j, 0, 1] if dtype.is_complex else [3.0, 4.0, 1.0]
    assert measuring._sum_of_squares(torch.tensor(values).to(dtype)) == 26.0


def test_the_jump_guard_takes_the_norm_it_is_given(run):
    norm = math.sqrt(8)
    assert passed(results_of(run, norm=norm / 9))[-1] == ("sound", True)
    (_, sound) = results_of(run, norm=norm / 11)
    assert not sound.passed
    assert sound.evidence["parameter_norm"] == pytest.approx(norm)
    assert passed(results_of(run, norm=norm / 11, ratio=12.0))[-1] == ("sound", True)


def test_counters_among_a_models_tensors_are_no_part_of_the_norm():
    class Counting(nn.Module):
        def __init__(self, count):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))
            self.register_buffer("num_batches_tracked", torch.tensor(count))

    norms = []
    for count in (1, 10**9):
        parts = TrainingParts(model=Counting(count))
        version = store_tensors(split(capture(parts), prefix="shared").tensors)
        store = MemoryStore()
        for key, data in version.shards.items():
            store.put(key, data)
        norms.append(measure_shards(store, version.manifest, None).norm)
    assert norms == [2.0, 2.0]


def test_a_store_that_is_away_while_values_are_measured_is_no_finding(run):
    """The bytes have been read; what cannot be measured now is not a version that cannot be judged."""
    gets = []

    def away(call):
        gets.extend([call] if call.verb == "get" else [])
        return Fault.UNAVAILABLE if len(gets) > 3 else None

    with pytest.raises(StoreUnavailableError):
        results_of(run, store=FaultyStore(run.store, away))
    assert len(gets) > 3
    assert run.version(1).rung == "committed"


# --- drift over versions that are not evenly spaced -------------------------------------------------------------------


def grown(folder, *steps, a_step, times=None):
    """A run with versions at `steps`, each as large as its step says; `times` spoils those from a step on."""
    made = MadeUpRun(store=folder_store(folder), name="run")
    made.start()
    for step in steps:
        made.commit(step, content=content_at(step, a_step, times))
    return made


def content_at(step, a_step, times=None):
    factor = times[1] if times is not None and step >= times[0] else 1.0
    return factor * (1 + a_step * step)


def rungs(folder, made):
    """As beside training: the newest first, until none waits."""
    validator = Validator(StorageTarget(str(folder)), "run", SoundnessPolicy())
    while validator.validate_next() is not None:
        pass
    return {n: v.rung for n, v in made.log.refresh().versions.items()}


def test_another_interval_does_not_end_the_run_s_sound_versions(tmp_path):
    made = grown(tmp_path, *range(10, 80, 10), a_step=0.001)
    assert set(rungs(tmp_path, made).values()) == {"sound"}
    for step in range(1070, 9070, 1000):
        made.commit(step, content=content_at(step, 0.001))
        assert set(rungs(tmp_path, made).values()) == {"sound"}
    made.commit(8075, content=content_at(8075, 0.001))  # a last save, and back to a short interval
    made.commit(8085, content=content_at(8085, 0.001))
    assert set(rungs(tmp_path, made).values()) == {"sound"}
    made.commit(8095, content=2.5 * content_at(8095, 0.001))
    assert rungs(tmp_path, made)[18] == "quarantined"


def test_a_validator_that_was_away_trusts_what_training_went_on_to(tmp_path):
    made = grown(tmp_path, *range(5000, 13000, 1000), a_step=1.0)
    assert set(rungs(tmp_path, made).values()) == {"sound"}
    for step in range(13000, 25000, 1000):
        made.commit(step, content=content_at(step, 1.0))
    assert set(rungs(tmp_path, made).values()) == {"sound"}


def test_a_fault_is_not_let_through_because_the_version_before_it_was_refused_or_not_judged_yet(
    tmp_path,
):
    fault = (9000, 2.5)
    made = grown(tmp_path, *range(1000, 9000, 1000), a_step=0.0001)
    assert set(rungs(tmp_path, made).values()) == {"sound"}
    for step in range(9000, 12000, 1000):
        made.commit(step, content=content_at(step, 0.0001, fault))
    found = rungs(tmp_path, made)
    assert {found[n] for n in (9, 10, 11)} == {"quarantined"}
    for step in range(12000, 20000, 1000):
        made.commit(step, content=content_at(step, 0.0001, fault))
        assert rungs(tmp_path, made)[step // 1000] == "quarantined"
    made.start(8)
    made.commit(9000, content=content_at(9000, 0.0001))
    assert rungs(tmp_path, made)[20] == "sound"


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_verdicts_move_a_version_up_and_are_not_repeated(run):
    record_verdicts(run.log, run.version(1), results_of(run), checker="me")
    assert run.version(1).rung == "sound"
    assert run.version(1).norm == pytest.approx(math.sqrt(8))
    slot = run.log.refresh().slot
    record_verdicts(run.log, run.version(1), results_of(run)[:1], checker="me")
    assert run.log.refresh().slot == slot


@pytest.mark.parametrize(("timed", "seconds"), [({"durable_s": 4.0}, 4.0), ({}, 0.0)])
def test_a_verdict_tells_how_long_its_version_was_on_its_way(tmp_path, timed, seconds):
    made = MadeUpRun(store=folder_store(tmp_path), name="run")
    made.timed = timed
    made.start()
    made.commit(10)
    judged = Validator(StorageTarget(str(tmp_path)), "run", SoundnessPolicy()).validate_next()
    assert judged is not None
    assert judged.until_committed_s == seconds


def test_a_failed_check_quarantines_with_its_reason(run):
    run.store.delete(run.shard_keys(1)[0])
    record_verdicts(run.log, run.version(1), results_of(run), checker="me")
    assert run.version(1).rung == "quarantined"
    assert run.version(1).bad_bytes
    assert "shards" in run.version(1).quarantine


def test_no_verdict_falls_on_a_version_that_was_given_up_meanwhile(run):
    for step in (20, 30, 40):
        run.commit(step)
    run.judge(2, 3, 4)
    version = run.version(1)
    run.append(Retire(versions=(version.name,)))
    run.append(Condemn(versions=(version.name,)))
    run.store.delete(run.shard_keys(1)[0])
    with pytest.raises(VersionGoneError, match="condemned"):
        record_verdicts(run.log, version, results_of(run), checker="me")
    assert run.version(1).quarantine is None


def test_a_version_that_is_given_up_meanwhile_keeps_no_other_from_its_verdict(
    tmp_path, monkeypatch
):
    """That nothing waits is what the driver takes from None: then it asks again at the next commit only."""
    made = MadeUpRun(store=folder_store(tmp_path), name="run")
    made.start()
    for step in (10, 20, 30, 40, 50):
        made.commit(step)
    made.judge(3, 4, 5)
    looked_at: list[int] = []

    def given_up(store, version, **facts):
        looked_at.append(version.number)
        if version.number == 2:
            made.append(Retire(versions=(version.name,)))
            made.append(Condemn(versions=(version.name,)))
        return validate(store, version, **facts)

    monkeypatch.setattr(validator_actor, "validate", given_up)
    validator = Validator(StorageTarget(str(tmp_path)), "run", SoundnessPolicy())
    judged = validator.validate_next()
    assert judged is not None
    assert (judged.number, judged.rung) == (1, "sound")
    assert looked_at == [2, 1]
    assert made.version(2).rung == "committed"
    assert validator.validate_next() is None


# --- with a real training --------------------------------------------------------------------------------------------


def _plant_nan(model):
    next(model.parameters()).data[0, 0] = torch.nan


def _times(factor):
    def spoil(model):
        for parameter in model.parameters():
            parameter.data *= factor

    return spoil


@pytest.mark.parametrize(("spoil", "reason"), [(_plant_nan, "NaN"), (_times(100), "norm")])
def test_state_that_is_not_sound_is_never_resumed(tmp_path, spoil, reason):
    for folder in ("whole", "spoiled"):
        (tmp_path / folder).mkdir()
    whole, run = patient_process(tmp_path / "whole"), patient_process(tmp_path / "spoiled")
    whole.attempt(small_loop())
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=7))
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=11, spoil_at=10, spoil=spoil))
    again = run.attempt(small_loop())
    assert again.resumed.name.number == 4
    assert reason in str(again.state.versions[5].quarantine)
    assert final_digests(run) == final_digests(whole)


def test_a_jump_within_the_bounds_is_sound(tmp_path):
    """The control of the above: what quarantines is the jump, and not that somebody interfered."""
    run = patient_process(tmp_path)
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=7))
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=11, spoil_at=10, spoil=_times(2)))
    assert run.attempt(small_loop()).resumed.name.number == 5
