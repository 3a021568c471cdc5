import pytest

from ray_workers.policies.retention import RetentionPolicy
from ray_workers.retiring import plan_retention, retire
from ray_workers.store.bodies import RolledBack
from ray_workers.store.errors import NewerFormatError, StoreRefusedError, StoreUnavailableError
from ray_workers.store.memory import MemoryStore
from tests.support.factories import MadeUpRun

LOSSES = {1: 0.9, 2: 0.8, 3: 0.12, 4: 0.5, 5: 0.7, 6: 0.6, 7: 0.1, 8: 0.4, 9: 0.3}


@pytest.fixture
def run():
    """Nine sound versions; version 7 has the lowest loss, version 3 the next."""
    made = MadeUpRun(store=MemoryStore())
    made.start()
    for number, loss in LOSSES.items():
        made.commit(10 * number, metrics={"loss": loss})
    made.judge(*LOSSES)
    made.end()
    return made


def kept(run, **rules):
    plan = plan_retention(run.store, run.log.refresh(), RetentionPolicy(**rules))
    return {v.number: v.reason for v in plan.keep}


def test_the_best_is_kept(run):
    assert kept(run, keep_best=1)[7] == "one of the best 1 by loss"


def test_a_quarantined_version_is_not_the_best(run):
    run.judge(7, check="bytes", reason="rot")
    found = kept(run, keep_best=1)
    assert found[3] == "one of the best 1 by loss"
    assert 7 not in found


def test_a_branch_that_was_left_is_not_the_best(run):
    run.append(RolledBack(to=run.version(6).name))
    found = kept(run, keep_best=1)
    assert found[3] == "one of the best 1 by loss"
    assert not {7, 8, 9} & set(found)


def test_the_newest_are_counted_without_those_given_up(run):
    run.judge(9, check="sound", reason="NaN")
    assert {8, 7, 6} <= set(kept(run, keep_last=3))


def test_what_the_plan_retires_can_be_retired(run):
    run.judge(7, check="bytes", reason="rot")
    plan = plan_retention(run.store, run.log.refresh(), RetentionPolicy(keep_best=1))
    retire(run.log, plan, reason="test")
    assert {n for n, v in run.log.state.versions.items() if v.status == "live"} == {3, 8, 9}


@pytest.fixture
def fail_once(run, monkeypatch):
    """The store raises at the first read of a version's manifest; returns the errors still to come."""
    errors = []
    get = run.store.get

    def fails(number, error):
        errors.append(error)
        wanted = run.manifest_key(number)

        def refuse(key, **limits):
            if key == wanted and errors:
                raise errors.pop()
            return get(key, **limits)

        monkeypatch.setattr(run.store, "get", refuse)
        return errors

    return fails


@pytest.mark.parametrize("error", [StoreUnavailableError, StoreRefusedError, NewerFormatError])
@pytest.mark.parametrize("rules", [{"keep_best": 1}, {"keep_best": 1, "keep_last": 1}])
def test_the_best_is_kept_though_the_store_did_not_let_us_read_it(run, fail_once, error, rules):
    left = fail_once(7, error("not now"))
    assert kept(run, **rules)[7] == "its metrics cannot be read"
    assert not left


def test_without_a_rule_that_asks_for_metrics_nothing_is_read(run, fail_once):
    left = fail_once(7, StoreUnavailableError("not now"))
    assert 7 not in kept(run, keep_last=1)
    assert left


def test_a_manifest_that_is_lost_is_not_kept_for_its_metrics(run):
    run.store.delete(run.manifest_key(7))
    found = kept(run, keep_best=1)
    assert found[3] == "one of the best 1 by loss"
    assert 7 not in found
