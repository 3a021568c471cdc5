from typing import Any

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from ray_workers.plain_names import named_parameters, plain_state
from tests.support.training import Net


def layers():
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))


def compiled(model: Any) -> Any:
    return torch.compile(model, backend="eager")


def with_checkpointing(model):
    model[0] = checkpoint_wrapper(model[0])
    return model


MODELS = {
    "plain": layers,
    "every kind of state": Net,
    "compiled": lambda: compiled(layers()),
    "a compiled layer": lambda: torch.nn.Sequential(compiled(layers()), layers()),
    "activation checkpointing": lambda: with_checkpointing(layers()),
    "all at once": lambda: compiled(torch.nn.Sequential(compiled(with_checkpointing(layers())))),
    "a child called module": lambda: torch.nn.ModuleDict({"module": compiled(layers())}),
}


@pytest.mark.parametrize("kind", MODELS)
def test_names_are_those_of_torch(kind):
    model = MODELS[kind]()
    theirs = get_model_state_dict(model)
    assert set(plain_state(model)) == set(theirs)
    assert {name for name, _ in named_parameters(model)} <= set(theirs)
    assert all(not name.startswith("_") and "._" not in name for name in theirs)


def test_a_child_called_module_keeps_its_name():
    assert next(iter(plain_state(MODELS["a child called module"]()))) == "module.0.weight"


def test_a_shared_parameter_is_named_once_and_stored_under_each_name():
    model = Net()
    assert [n for n, p in named_parameters(model) if p is model.tied.weight] == ["middle.weight"]
    assert {"middle.weight", "tied.weight"} <= set(plain_state(model))


def test_nothing_is_copied():
    model = layers()
    assert plain_state(model)["0.weight"].data_ptr() == model.get_parameter("0.weight").data_ptr()
