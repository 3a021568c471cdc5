from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

from ray_workers import rng
from ray_workers.planners import rank_prefix
from ray_workers.shard_io import read_tensors
from ray_workers.state_tree import join, split
from ray_workers.store.errors import DigestMismatchError, InvalidInputError, StateMismatchError
from ray_workers.training_state import TrainingParts, apply, capture, restore, template
from tests.support.training import OPTIMIZERS, Net, digest_tree, make_training
from tests.support.versions import make_version, write_rank


def save(parts, **beside):
    """One rank's version: shared state, and this process's random generators as rank-local state."""
    shared = split({**capture(parts), **beside}, prefix="shared")
    local = split({"rng": rng.capture()}, prefix=rank_prefix(0))
    part = write_rank(shared.tensors | local.tensors, rank=0, plain=local.plain)
    return make_version([part], plain=shared.plain)


def resume(parts, version):
    tree = restore(parts, version.manifest, version.read)
    tensors = read_tensors(version.manifest, version.read, prefix=rank_prefix(0))
    rng.restore(join(version.manifest.rank_plain[0], tensors)["rng"])
    return tree


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_training_goes_on_bit_for_bit(optimizer, steps):
    training = make_training(optimizer)
    training.steps(steps)
    version = save(training.parts)
    losses = training.steps(5)
    expected = digest_tree(capture(training.parts))

    resumed = make_training(optimizer, seed=1)
    resume(resumed.parts, version)
    assert resumed.steps(5) == losses
    assert digest_tree(capture(resumed.parts)) == expected


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_saving_changes_nothing(optimizer):
    watched, plain = make_training(optimizer), make_training(optimizer)
    fired: list[str] = []
    watched.optimizer.register_step_pre_hook(lambda *_: fired.append("step"))
    save(watched.parts)
    torch.manual_seed(5)
    losses = []
    for _ in range(3):
        losses += watched.steps(1)
        save(watched.parts)
    torch.manual_seed(5)
    assert plain.steps(3) == losses
    assert digest_tree(capture(plain.parts)) == digest_tree(capture(watched.parts))
    assert len(fired) == 3


def test_gradients_survive_a_save():
    training = make_training("sgd")
    training.model(torch.randn(4, 6)).sum().backward()
    before = [None if p.grad is None else p.grad.clone() for p in training.model.parameters()]
    capture(training.parts)
    for parameter, grad in zip(training.model.parameters(), before, strict=True):
        assert digest_tree(parameter.grad) == digest_tree(grad)


def test_restoring_over_a_used_training_is_the_same():
    training = make_training()
    training.steps(4)
    version = save(training.parts)
    expected = digest_tree(capture(training.parts))
    used = make_training(seed=1)
    used.steps(9)
    resume(used.parts, version)
    assert digest_tree(capture(used.parts)) == expected


def test_capture_copies_no_tensor():
    training = make_training()
    training.steps(2)
    tensors = split(capture(training.parts), prefix="shared").tensors
    live = {t.data_ptr() for t in (*training.model.parameters(), *training.model.buffers())}
    live |= {t.data_ptr() for state in training.optimizer.state.values() for t in state.values()}
    generator_copies = [path for path in tensors if path.startswith("shared/extra/")]
    assert len(generator_copies) == 1
    for path, tensor in tensors.items():
        assert tensor.data_ptr() in live or path in generator_copies


def test_a_tied_weight_stays_tied():
    training = make_training()
    training.steps(2)
    version = save(training.parts)
    fresh = make_training(seed=1)
    resume(fresh.parts, version)
    model = fresh.model
    assert isinstance(model, Net)
    assert model.tied.weight is model.middle.weight


def test_what_stands_beside_the_parts_comes_back():
    training = make_training()
    version = save(training.parts, counters={"seen": 5})
    assert resume(make_training(seed=1).parts, version)["counters"] == {"seen": 5}


# --- names ----------------------------------------------------------------------------------------


def test_names_are_those_of_torch():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    groups: list[dict[str, Any]] = [
        {"params": model[1].parameters()},
        {"params": model[0].parameters(), "lr": 1e-4},
    ]
    optimizer = torch.optim.AdamW(groups)
    model(torch.randn(1, 2)).sum().backward()
    optimizer.step()
    theirs = get_optimizer_state_dict(model, optimizer)
    assert digest_tree(
        capture(TrainingParts(model=model, optimizer=optimizer))["optimizer"]["0"]
    ) == digest_tree(theirs)


def test_the_order_of_optimizers_and_layers_in_memory_does_not_matter():
    def parts(seed):
        torch.manual_seed(seed)
        model = torch.nn.ModuleDict({"g": torch.nn.Linear(2, 2), "d": torch.nn.Linear(2, 2)})
        made = {
            name: torch.optim.Adam(model[name].parameters())
            for name in (("g", "d") if seed else ("d", "g"))
        }
        return TrainingParts(
            model=model,
            optimizer=made,
            scheduler=[lr_scheduler.StepLR(made["g"], 2), lr_scheduler.StepLR(made["d"], 3)],
        )

    def step(training):
        model: Any = training.model
        (model["g"](torch.ones(1, 2)) * model["d"](torch.ones(1, 2))).sum().backward()
        for optimizer in training.optimizer.values():
            optimizer.step()
            optimizer.zero_grad()
        for scheduler in training.scheduler:
            scheduler.step()

    first, second = parts(0), parts(1)
    for _ in range(3):
        step(first)
    version = save(first)
    restore(second, version.manifest, version.read)
    step(first)
    step(second)
    assert digest_tree(sorted_tree(capture(second))) == digest_tree(sorted_tree(capture(first)))


def sorted_tree(tree):
    if not isinstance(tree, dict):
        return tree
    return {key: sorted_tree(tree[key]) for key in sorted(tree, key=str)}


def test_several_in_a_list_are_called_by_number():
    model = torch.nn.Linear(2, 2)
    optimizers = [torch.optim.SGD([model.weight], lr=0.1), torch.optim.SGD([model.bias], lr=0.2)]
    tree = capture(TrainingParts(model=model, optimizer=optimizers))
    assert [tree["optimizer"][name]["param_groups"][0]["params"] for name in "01"] == [
        ["weight"],
        ["bias"],
    ]


def test_without_optimizer():
    model = torch.nn.Linear(2, 2)
    version = save(TrainingParts(model=model))
    other = torch.nn.Linear(2, 2)
    restore(TrainingParts(model=other), version.manifest, version.read)
    assert torch.equal(model.weight, other.weight)


SCHEDULERS = {
    "step": lambda o: lr_scheduler.StepLR(o, 3),
    "multi step": lambda o: lr_scheduler.MultiStepLR(o, [2, 2, 5]),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 20),
    "warm restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3, cycle_momentum=False),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=50),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [4]
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.LinearLR(o), lr_scheduler.PolynomialLR(o, 20)]),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_of_torch_goes_on(name):
    def parts():
        model = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return TrainingParts(
            model=model, optimizer=optimizer, scheduler=SCHEDULERS[name](optimizer)
        )

    def rates(training, count):
        found = []
        for index in range(count):
            training.optimizer.step()
            training.scheduler.step(*([1.0 + index] if name == "plateau" else []))
            found.append(training.optimizer.param_groups[0]["lr"])
        return found

    first, second = parts(), parts()
    rates(first, 5)
    version = save(first)
    restore(second, version.manifest, version.read)
    assert rates(second, 7) == rates(first, 7)
    if name == "multi step":
        scheduler: Any = second.scheduler
        assert type(scheduler.milestones) is Counter


def test_an_average_of_the_model_comes_back():
    training = make_training()
    average = AveragedModel(training.model)
    training.steps(2)
    average.update_parameters(training.model)
    parts = TrainingParts(model=training.model, extra={"average": average})
    version = save(parts)
    fresh = Net()
    fresh_average = AveragedModel(fresh)
    restore(
        TrainingParts(model=fresh, extra={"average": fresh_average}), version.manifest, version.read
    )
    assert digest_tree(dict(fresh_average.state_dict())) == digest_tree(dict(average.state_dict()))


class Growing:
    """State whose tensors a fresh object does not have yet."""

    def __init__(self) -> None:
        self.seen: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.seen = state_dict["seen"]


def test_state_that_a_fresh_object_does_not_have_yet_comes_back():
    model = torch.nn.Linear(1, 1)
    full, fresh = Growing(), Growing()
    full.seen = {3: torch.arange(4), 4: torch.arange(6), 5: np.arange(3.0), 7: b"x" * 5000}
    fresh.seen = {3: torch.arange(2), 4: torch.zeros(1, dtype=torch.int64).expand(6)}
    version = save(TrainingParts(model=model, extra={"seen": full}))
    restore(TrainingParts(model=model, extra={"seen": fresh}), version.manifest, version.read)
    assert torch.equal(fresh.seen[3], torch.arange(4))
    assert torch.equal(fresh.seen[4], torch.arange(6))
    assert np.array_equal(fresh.seen[5], np.arange(3.0))
    assert fresh.seen[7] == b"x" * 5000


def body_and_head():
    """Two layers, of which the optimizer holds the second one alone."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    model[0].requires_grad_(requires_grad=False)
    return TrainingParts(model=model, optimizer=torch.optim.Adam(model[1].parameters(), lr=0.1))


def unfreeze(parts):
    parts.model[0].requires_grad_(requires_grad=True)
    parts.optimizer.add_param_group({"params": list(parts.model[0].parameters()), "lr": 0.01})


def train(parts, steps):
    for _ in range(steps):
        parts.model(torch.ones(3, 2)).square().sum().backward()
        parts.optimizer.step()
        parts.optimizer.zero_grad()


def test_groups_that_were_added_while_training_come_back():
    parts, fresh = body_and_head(), body_and_head()
    train(parts, 2)
    unfreeze(parts)
    train(parts, 3)
    version = save(parts)
    restore(fresh, version.manifest, version.read)
    assert digest_tree(capture(fresh)) == digest_tree(capture(parts))
    fresh.model[0].requires_grad_(requires_grad=True)
    train(parts, 3)
    train(fresh, 3)
    assert digest_tree(capture(fresh)) == digest_tree(capture(parts))


def test_a_version_without_the_added_groups_can_be_restored_after_one_that_has_them():
    parts, fresh = body_and_head(), body_and_head()
    train(parts, 2)
    before, expected = save(parts), digest_tree(capture(parts))
    unfreeze(parts)
    train(parts, 1)
    after = save(parts)
    restore(fresh, after.manifest, after.read)
    restore(
        fresh, before.manifest, before.read
    )  # as all ranks do when one could not read the newer one
    assert digest_tree(capture(fresh)) == expected


def test_parameters_of_added_groups_that_are_still_frozen_are_told(caplog):
    parts, fresh = body_and_head(), body_and_head()
    unfreeze(parts)
    version = save(parts)
    restore(fresh, version.manifest, version.read)
    assert "0.weight and 1 more of the group" in caplog.text
    caplog.clear()
    again = body_and_head()
    again.model.requires_grad_(requires_grad=True)
    restore(again, version.manifest, version.read)
    assert not caplog.text


def test_groups_that_cannot_be_added_are_refused_and_nothing_is_changed():
    parts = body_and_head()
    unfreeze(parts)
    version = save(parts)
    model = body_and_head().model
    others = {
        "another first group": torch.optim.Adam([model[1].weight]),
        "all in one group": torch.optim.Adam(model.parameters()),
    }
    for optimizer in others.values():
        other = TrainingParts(model=model, optimizer=optimizer)
        before = digest_tree(capture(other))
        with pytest.raises(StateMismatchError, match="2 parameter groups are stored, 1 are here"):
            restore(other, version.manifest, version.read)
        assert digest_tree(capture(other)) == before


class Remembering(torch.nn.Linear):
    """Keeps what it saw as extra state, which grows."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.seen: dict[str, Any] = {"all": torch.zeros(0), "last": torch.zeros(2)}

    def get_extra_state(self) -> dict[str, Any]:
        return self.seen

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.seen = state


def test_extra_state_of_another_size_than_a_fresh_models_comes_back():
    model, fresh = (torch.nn.Sequential(Remembering()) for _ in range(2))
    grown: Any = model[0]
    grown.seen = {"all": torch.arange(3.0), "last": torch.ones(2), "more": torch.ones(1)}
    version = save(TrainingParts(model=model))
    restore(TrainingParts(model=fresh), version.manifest, version.read)
    again: Any = fresh[0]
    assert digest_tree(again.seen) == digest_tree(grown.seen)
    assert torch.equal(again.weight, grown.weight)


class WideState(torch.optim.Optimizer):
    """Keeps float32 state for bfloat16 parameters, nested, with a counter of its own type."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override] # noqa: ARG002 - torch's interface
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state.setdefault("wide", torch.full_like(parameter, 1 / 3, dtype=torch.float32))
                state.setdefault("codes", torch.arange(3, dtype=torch.uint8))
                state.setdefault("deep", {"factor": torch.full((2,), 1 / 3)})
                state.setdefault("pair", (torch.full((2,), 1 / 3), "text"))
                state["count"] = state.get("count", 0) + 1


def test_state_of_another_type_than_its_parameter_keeps_every_bit():
    model, other = torch.nn.Linear(2, 2).bfloat16(), torch.nn.Linear(2, 2).bfloat16()
    optimizer, fresh = WideState(model.parameters()), WideState(other.parameters())
    optimizer.step()
    version = save(TrainingParts(model=model, optimizer=optimizer))
    restore(TrainingParts(model=other, optimizer=fresh), version.manifest, version.read)
    state = fresh.state[other.weight]
    assert state["wide"].dtype is torch.float32
    assert torch.equal(state["wide"], optimizer.state[model.weight]["wide"])
    assert state["codes"].dtype is torch.uint8
    assert state["count"] == 1
    assert digest_tree(state) == digest_tree(optimizer.state[model.weight])


# --- what does not fit ----------------------------------------------------------------------------


def wider(model):
    model.last = torch.nn.Linear(8, 4)
    model.frozen = torch.nn.Linear(3, 3)
    return model


def without_unused(model):
    model.unused = torch.nn.Identity()
    return model


def with_buffer(model):
    model.register_buffer("another", torch.zeros(1))
    return model


def in_two_groups(parts):
    both = list(parts.model.parameters())
    optimizer = torch.optim.AdamW([{"params": both[:3]}, {"params": both[3:]}])
    return replace(parts, optimizer=optimizer)


MISFITS: dict[str, Callable[[], TrainingParts]] = {
    "width": lambda: make_training(seed=1, wrap=wider).parts,
    "type": lambda: make_training(seed=1, wrap=lambda model: model.double()).parts,
    "less": lambda: make_training(seed=1, wrap=without_unused).parts,
    "more": lambda: make_training(seed=1, wrap=with_buffer).parts,
    "groups": lambda: in_two_groups(make_training(seed=1).parts),
    "no optimizer": lambda: replace(make_training(seed=1).parts, optimizer=None),
    "two schedulers": lambda: replace(
        make_training(seed=1).parts, scheduler=[make_training(seed=1).scheduler] * 2
    ),
    "extra renamed": lambda: replace(make_training(seed=1).parts, extra={"rolls": Growing()}),
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("width", r"shared/model/last.weight \(stored float32\[3, 8\], here float32\[4, 8\]\)"),
        ("type", r"here float64"),
        (
            "less",
            r"2 not in the training code: shared/model/unused.bias, shared/model/unused.weight",
        ),
        ("more", r"1 missing in the version: shared/model/another"),
        ("groups", r"AdamW state does not fit: 1 parameter groups are stored, 2 are here"),
        ("no optimizer", r"stored optimizer state does not fit: 0 stored, nothing here"),
        ("two schedulers", r"stored scheduler state does not fit: 0 stored, 0, 1 here"),
        ("extra renamed", r"stored extra state does not fit: draws stored, rolls here"),
    ],
)
def test_a_misfit_changes_nothing(change, reason):
    training = make_training()
    training.steps(2)
    version = save(training.parts)
    parts = MISFITS[change]()
    before = digest_tree(capture(parts))
    with pytest.raises(StateMismatchError, match=reason):
        restore(parts, version.manifest, version.read)
    assert digest_tree(capture(parts)) == before


def test_damage_changes_nothing():
    training = make_training()
    training.steps(2)
    version = save(training.parts)
    (key,) = version.shards
    version.shards[key] = version.shards[key][:-1] + bytes([version.shards[key][-1] ^ 1])
    fresh = make_training(seed=1)
    before = digest_tree(capture(fresh.parts))
    with pytest.raises(DigestMismatchError):
        restore(fresh.parts, version.manifest, version.read)
    assert digest_tree(capture(fresh.parts)) == before
    assert not fresh.optimizer.state


def test_a_tree_that_is_none_of_ours_is_refused():
    parts = make_training().parts
    trees: list[Any] = [{}, [], None, {"model": 3}]
    for tree in trees:
        with pytest.raises(StateMismatchError, match="holds no"):
            apply(parts, tree)


def test_a_parameter_outside_the_model_is_refused():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(InvalidInputError, match="holds a parameter that is not in the model"):
        capture(TrainingParts(model=torch.nn.Linear(1, 1), optimizer=optimizer))


class OldFsdp(FullyShardedDataParallel):
    """As such, without the accelerator that its own constructor asks for."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)


def test_fsdp1_is_refused_when_handed_over():
    with pytest.raises(InvalidInputError, match=r"use torch\.distributed\.fsdp\.fully_shard"):
        TrainingParts(model=torch.nn.Sequential(OldFsdp()))


def test_optimizer_state_of_no_parameter_is_refused():
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state: Any = optimizer.state
    state["global"] = {"x": 1}
    with pytest.raises(InvalidInputError, match="under 'global', which belongs to no parameter"):
        capture(TrainingParts(model=model, optimizer=optimizer))


def test_the_template_gives_memory_without_a_step():
    training = make_training()
    training.steps(1)
    version = save(training.parts)
    fresh = make_training(seed=1)
    found = template(fresh.parts, version.manifest)
    assert set(found) == {path for path in version.manifest.tensors if path.startswith("shared/")}
    assert (
        found["shared/model/first.weight"].data_ptr()
        == fresh.model.get_parameter("first.weight").data_ptr()
    )
    assert not fresh.optimizer.state


@pytest.mark.gpu
@pytest.mark.parametrize("fused", [False, True])
def test_counters_of_cuda_parameters_lie_where_the_optimizer_wants_them(fused):
    def parts(value):
        model = torch.nn.Module()
        model.scalar = torch.nn.Parameter(torch.tensor(value, device="cuda"))
        model.matrix = torch.nn.Parameter(torch.full((3, 3), value, device="cuda"))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
        return TrainingParts(model=model, optimizer=optimizer)

    def train(training, steps):
        model: Any = training.model
        for _ in range(steps):
            (model.scalar * model.matrix.sin()).sum().backward()
            training.optimizer.step()
            training.optimizer.zero_grad()

    first, second = parts(1.0), parts(2.0)
    train(first, 3)
    version = save(first)
    restore(second, version.manifest, version.read)
    train(first, 3)
    train(second, 3)
    for mine, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert theirs.is_cuda
        assert torch.equal(mine, theirs)
