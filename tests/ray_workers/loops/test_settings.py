from __future__ import annotations

import dataclasses

import pytest

from ray_workers.loops import digits, gpt
from ray_workers.loops.settings import number, read_settings
from ray_workers.store.errors import InvalidInputError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    epochs: int = number(6, low=1)
    lr: float = number(0.5, low=0, below=1)


def test_what_is_left_out_has_its_default():
    assert read_settings(Settings, {}) == Settings()
    assert read_settings(Settings, {"lr": 0.25}) == Settings(epochs=6, lr=0.25)


def test_a_whole_number_serves_as_a_fraction_but_not_the_other_way_round():
    read = read_settings(Settings, {"lr": 0}).lr
    assert read == 0.0
    assert isinstance(read, float)
    with pytest.raises(InvalidInputError, match=r"'epochs' must be a whole number, found 6\.0"):
        read_settings(Settings, {"epochs": 6.0})


def test_a_misspelt_key_is_refused_with_the_right_one():
    with pytest.raises(InvalidInputError) as caught:
        read_settings(Settings, {"epoch": 9})
    assert str(caught.value) == (
        "This training loop has no setting 'epoch'. Did you mean 'epochs'? It takes epochs, lr."
    )


def test_a_key_like_no_other_is_refused_with_the_list():
    with pytest.raises(InvalidInputError, match=r"no setting 'warmth'\. It takes epochs, lr\.$"):
        read_settings(Settings, {"warmth": 9})


@pytest.mark.parametrize("value", [0, -1, True, "6", None, float("nan"), [6]])
def test_a_bad_whole_number_is_refused_by_name(value):
    with pytest.raises(InvalidInputError, match="'epochs'"):
        read_settings(Settings, {"epochs": value})


@pytest.mark.parametrize("value", [-0.1, 1, 1.0, float("nan"), float("inf"), False, "0.1"])
def test_a_bad_fraction_is_refused_by_name(value):
    with pytest.raises(InvalidInputError, match="'lr'"):
        read_settings(Settings, {"lr": value})


@pytest.mark.parametrize("loop", [digits, gpt])
def test_a_loop_refuses_a_misspelt_key_before_it_touches_anything(loop):
    with pytest.raises(InvalidInputError, match="Did you mean 'batch_size'"):
        loop.train_loop({"batchsize": 8})


def test_heads_must_divide_the_width():
    with pytest.raises(
        InvalidInputError, match=r"'width' \(65\) must be a multiple of 'heads' \(2\)"
    ):
        read_settings(gpt.Settings, {"width": 65})
