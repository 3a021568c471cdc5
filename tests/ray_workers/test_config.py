from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from ray_workers.config import Retention, Saving, Scaling, Validation, check_training_config
from ray_workers.store.errors import InvalidInputError


@pytest.mark.parametrize(
    "key",
    [
        "password", "db_password", "dbPassword", "secret", "client-secret", "token", "hf_token", "HF_TOKEN", "hfToken",
        "api_key", "apiKey", "apikey", "API-KEY", "aws_secret_access_key", "aws_access_key_id", "private_key",
        "credentials", "passphrase", "auth.key",
    ],
)  # fmt: skip
def test_a_value_named_like_a_secret_is_refused_and_not_repeated(key):
    with pytest.raises(InvalidInputError, match="Prefect Secret block") as caught:
        check_training_config({"lr": 0.1, key: "hunter2"})
    assert key in caught.value.message
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    "key",
    [
        "tokenizer", "max_tokens", "tokens_per_batch", "num_tokens", "key", "keys", "monkey", "keyboard", "sort_key",
        "passes", "secretary", "d_model", "public_key_size", "author", "access",
    ],
)  # fmt: skip
def test_names_that_only_look_similar_are_no_secrets(key):
    assert check_training_config({key: 5}) == {key: 5}


def test_a_secret_is_found_by_its_type_and_at_any_depth():
    with pytest.raises(InvalidInputError, match="'db'") as caught:
        check_training_config({"db": SecretStr("hunter2")})
    assert "hunter2" not in caught.value.message
    with pytest.raises(InvalidInputError, match=r"'data\.source\.password'"):
        check_training_config({"data": {"source": {"password": "hunter2"}}})
    with pytest.raises(InvalidInputError, match=r"'sources\.token'"):
        check_training_config({"sources": [{"name": "a"}, {"token": "hunter2"}]})


def test_plain_values_come_through_as_json_has_them():
    config = {"a": 1, "b": 0.5, "c": "x", "d": None, "e": True, "f": (1, [2]), "g": {1: {}}}
    assert check_training_config(config) == {**config, "f": [1, [2]], "g": {"1": {}}}


@pytest.mark.parametrize("value", [{1, 2}, object(), b"x", 1j, [object()], {"inner": {1}}])
def test_values_that_are_not_json_are_refused_by_name(value):
    with pytest.raises(InvalidInputError, match="'odd"):
        check_training_config({"odd": value})


def test_numbers_that_json_does_not_have_are_refused():
    for number in (float("nan"), float("inf")):
        with pytest.raises(InvalidInputError, match="'lr'"):
            check_training_config({"lr": number})


BAD: list[tuple[Any, dict[str, Any]]] = [
    (Scaling, {"workers": 0}),
    (Scaling, {"workers": -1}),
    (Scaling, {"max_workers": 4}),
    (Scaling, {"workers": 3, "max_workers": 2, "on_changed_workers": "reshard"}),
    (Scaling, {"max_workers": 4, "on_changed_workers": "reshard", "grow_after_seconds": -1}),
    (Scaling, {"cpus_per_worker": 0}),
    (Scaling, {"gpus_per_worker": -1}),
    (Scaling, {"workerz": 2}),
    (Saving, {"every_steps": 0}),
    (Saving, {"every_epochs": 0}),
    (Saving, {"every_seconds": 0}),
    (Saving, {"upload_tries": 0}),
    (Saving, {"failure_budget": -1}),
    (Saving, {"buffers": 0}),
    (Validation, {"required": "perfect"}),
    (Validation, {"max_norm_ratio": 1}),
    (Validation, {"timeout_seconds": 0}),
    (Retention, {"keep_last": 0}),
    (Retention, {"keep_every_steps": 0}),
    (Retention, {"keep_best": 0}),
    (Retention, {"keep_best": 1, "metric": ""}),
    (Retention, {"mode": "median"}),
]


@pytest.mark.parametrize(("model", "values"), BAD, ids=str)
def test_values_out_of_bounds_are_refused(model, values):
    model()  # the defaults are good, so what is refused is the value
    with pytest.raises(ValidationError):
        model(**values)


@pytest.mark.parametrize("model", [Scaling, Saving, Validation, Retention])
def test_every_field_is_described_for_the_run_form(model):
    assert all(field.description for field in model.model_fields.values())
    assert model.__doc__
    with pytest.raises(ValidationError):
        setattr(model(), next(iter(model.model_fields)), None)  # frozen


def test_a_range_of_workers_is_fixed_at_one_number_for_each_group():
    scaling = Scaling(workers=2, max_workers=4, on_changed_workers="reshard", gpus_per_worker=0.5)
    assert scaling.fixed_at(3) == Scaling(
        workers=3, on_changed_workers="reshard", gpus_per_worker=0.5
    )
    assert scaling.resources_per_worker == {"CPU": 1, "GPU": 0.5}


def test_retention_keeps_everything_unless_told():
    assert Retention().keeps_everything
    assert not Retention(keep_last=1).keeps_everything
    assert not Retention(keep_best=1).keeps_everything
    assert not Retention(keep_every_steps=1).keeps_everything


@pytest.mark.parametrize(
    "url", ["postgres://me:hunter2@db/x", "https://:hunter2@host", " redis://u:hunter2@h:6379/0"]
)
def test_a_url_with_a_password_in_it_is_refused_and_not_repeated(url):
    with pytest.raises(
        InvalidInputError, match=r"'data\.source' is a URL with a password"
    ) as raised:
        check_training_config({"data": {"source": url}})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    ["s3://bucket/a:b@c", "http://host:80/x@y", "user@host:path", "https://me@host/x", "a: b@c"],
)
def test_other_addresses_are_values_like_any(text):
    assert check_training_config({"source": text}) == {"source": text}


@pytest.mark.parametrize("metric", ["loss", "val_loss", "eval/rmse", "Perplexity"])
def test_the_best_by_a_loss_is_the_smallest(metric):
    assert Retention(keep_best=2, metric=metric).mode == "min"


def test_the_best_by_another_metric_needs_to_know_which_way():
    with pytest.raises(ValueError, match="smaller or a larger 'accuracy' is better"):
        Retention(keep_best=2, metric="accuracy")
    assert Retention(keep_best=2, metric="accuracy", mode="max").mode == "max"
    assert Retention(metric="accuracy").keeps_everything
