import json
import math

import pytest
import torch

from ray_workers.comparison import compare, layer_distances, whole_distance
from ray_workers.loading import open_version
from ray_workers.store.bodies import RolledBack
from ray_workers.store.errors import InvalidInputError
from tests.support.factories import MadeUpRun, folder_store
from tests.support.small_training import Killed, patient_process, small_loop


@pytest.fixture
def url(tmp_path):
    """`digits` with two attempts, and its fork `child`."""
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    run.commit(10, metrics={"loss": 0.5}, config={"lr": 0.1, "model": {"layers": 2}})
    run.commit(20, metrics={"loss": 0.4}, config={"lr": 0.1, "model": {"layers": 2}})
    run.end("failed")
    run.start(1)
    run.commit(
        30, metrics={"loss": 0.3, "acc": math.nan}, config={"lr": 0.1, "model": {"layers": 2}}
    )
    child = run.fork(3, "child")
    child.commit(
        40, metrics={"loss": 0.2}, config={"lr": 0.01, "model": {"layers": 2}, "warm": True}
    )
    return str(tmp_path)


def compared(url, *references, **options):
    return compare([open_version(reference, url) for reference in references], **options)


def test_only_hyperparameters_that_differ_are_named(url):
    found = compared(url, "digits@3", "child@1", weights=False)
    assert found.differing == (("lr", ("0.1", "0.01")), ("warm", ("(not set)", "true")))
    assert compared(url, "digits@1", "digits@2", weights=False).differing == ()


def test_metrics_stand_side_by_side_loss_first(url):
    found = compared(url, "digits@1", "digits@3", weights=False)
    assert found.metrics[0] == ("loss", (0.5, 0.3))
    name, (missing, broken) = found.metrics[1]
    assert (name, missing) == ("acc", None)
    assert broken is not None
    assert math.isnan(broken)
    json.dumps(found.to_json(), allow_nan=False)


def test_a_curve_ends_at_its_version_and_tells_attempts_and_hours(url):
    first, second = compared(url, "digits@1", "digits@3", weights=False).versions
    assert max(point.step for point in first.curve) == 10
    assert [point.step for point in second.curve] == list(range(1, 31))
    assert {p.attempt for p in second.curve} == {1, 2}
    assert (first.resumes, [step for step, _ in second.resumes]) == ((), [10])
    hours = [p.hours for p in second.curve if p.hours is not None]
    assert len(hours) == 30
    assert hours == sorted(hours)


def test_where_an_actor_was_started_again_the_curve_goes_on_and_nothing_resumed(tmp_path):
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    run.commit(10)
    run.restart_actor()
    run.commit(20)
    _, second = compared(str(tmp_path), "digits@1", "digits@2", weights=False).versions
    assert second.resumes == ()
    assert [(p.step, p.attempt) for p in second.curve[9:11]] == [(10, 1), (11, 2)]


def test_a_version_of_a_branch_that_was_left_has_its_own_curve(tmp_path):
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    run.commit(10)
    run.commit(20)
    run.append(RolledBack(to=run.version(1).name))
    run.start(1)
    run.series = [(step, 100.0 + step) for step in range(1, 11)]
    for step in (20, 30):
        run.series += [(at, 100.0 + at) for at in range(run.series[-1][0] + 1, step + 1)]
        run.commit(step)
    run.append(RolledBack(to=run.version(2).name))
    run.start(2)
    run.series = [(step, 1.0 / step) for step in range(1, 21)]
    run.commit(40)
    found = compared(str(tmp_path), "digits@4", "digits@5", "digits@2", weights=False)
    left, present, before = found.versions
    assert [(p.step, p.loss) for p in left.curve] == [(s, 100.0 + s) for s in range(1, 31)]
    assert {p.attempt for p in left.curve} == {1, 2}
    assert [(p.step, p.loss) for p in present.curve] == [(s, 1.0 / s) for s in range(1, 41)]
    assert {p.attempt for p in present.curve} == {1, 3}
    assert [(p.step, p.loss) for p in before.curve] == [(s, 1.0 / s) for s in range(1, 21)]
    assert [[step for step, _ in v.resumes] for v in found.versions] == [[10], [20], []]


def test_a_fork_is_told(url):
    assert compared(url, "digits@3", "child@1", weights=False).versions[1].forked_from == "digits@3"


@pytest.mark.parametrize("references", [("digits@1",), ("digits@1", "digits@1"), ()])
def test_fewer_than_two_versions_are_refused(url, references):
    with pytest.raises(InvalidInputError, match="at least two versions"):
        compared(url, *references)


def test_layers_are_measured_by_norm_and_distance():
    first = {
        "a": torch.tensor([3.0, 4.0]),
        "b": torch.zeros(2),
        "c": torch.ones(2),
        "n": torch.tensor(1),
    }
    second = {
        "a": torch.tensor([3.0, 0.0]),
        "b": torch.ones(2),
        "c": torch.ones(3),
        "n": torch.tensor(2),
    }
    found = layer_distances(first, second)
    assert [(d.name, d.norm, d.other_norm, d.distance) for d in found] == [
        ("a", 5.0, 3.0, 4.0),
        ("b", 0.0, pytest.approx(math.sqrt(2)), pytest.approx(math.sqrt(2))),
    ]
    assert [d.relative for d in found] == [0.8, math.inf]
    assert layer_distances(first, first)[1].relative == 0.0


def test_a_whole_model_is_measured_as_one_vector():
    first = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([12.0])}
    second = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([8.0])}
    whole = whole_distance(layer_distances(first, second))
    assert (whole.norm, whole.distance, whole.relative) == (13.0, 5.0, 5 / 13)
    assert whole.other_norm == pytest.approx(math.sqrt(74))
    assert whole_distance(()).relative == 0.0


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_not_finite_ranks_first_and_is_valid_json(broken):
    one, half = torch.ones(1), torch.full((1,), 0.5)
    found = layer_distances(
        {"moved": one, "broken": one, "was": torch.full((1,), broken)},
        {"moved": half, "broken": torch.full((1,), broken), "was": one},
    )
    assert [d.name for d in sorted(found, key=lambda d: -d.weight)] == ["broken", "was", "moved"]
    for layer in (*found, whole_distance(found)):
        json.dumps(layer.to_json(), allow_nan=False)


def test_weights_of_a_real_run_that_was_killed_and_resumed(tmp_path):
    process = patient_process(tmp_path)
    with pytest.raises(Killed):
        process.attempt(small_loop(die_at=6))
    process.attempt(small_loop())
    url = str(tmp_path / "store")
    found = compared(url, "run@1", "run@latest")
    layers = {layer.name: layer for layer in found.layers[found.versions[1].reference]}
    assert layers["0.weight"].distance > 0
    assert "1.num_batches_tracked" not in layers
    assert [step for step, _ in found.versions[1].resumes] == [4]


def test_weights_that_cannot_be_compared_are_named_with_the_reason(tmp_path):
    patient_process(tmp_path).attempt(small_loop(), {"epochs": 1})
    url = str(tmp_path / "store")
    other = MadeUpRun(store=folder_store(tmp_path / "store"), name="other")
    other.start()
    other.commit(10)
    found = compared(url, "run@1", "other@1")
    assert found.layers == {}
    assert "other@1" in found.without_layers
