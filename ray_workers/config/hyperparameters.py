"""The user's hyperparameters, checked before they are stored and shown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from pydantic import SecretStr

from ray_workers.store.errors import InvalidInputError

__all__ = ["check_training_config"]


_SECRET_WORDS = {
    "password", "passwd", "passphrase", "secret", "secrets", "token", "apikey", "credential", "credentials",
}  # fmt: skip
_SECRET_PAIRS = {
    ("api", "key"),
    ("access", "key"),
    ("private", "key"),
    ("secret", "key"),
    ("auth", "key"),
}


_URL_WITH_PASSWORD = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://[^/?#@\s]*:[^/?#@\s]+@")


def check_training_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The user's hyperparameters, checked: JSON values only, and nothing that looks like a secret.

    They are stored in every manifest and shown on the flow run's page, so a secret must not be among them.

    Raises:
        InvalidInputError: names the key, and what to use instead.
    """
    checked: dict[str, Any] = {
        str(key): _checked(value, str(key), str(key)) for key, value in config.items()
    }
    return checked


def _checked(value: Any, path: str, key: str) -> Any:
    if isinstance(value, SecretStr) or _looks_secret(key):
        raise InvalidInputError(
            f"The configuration value {path!r} is, or is named like, a secret. Hyperparameters are stored with every "
            "version and shown in the UI. Put the secret into a Prefect Secret block, or into the workers' "
            "environment, and load it inside the training loop."
        )
    if isinstance(value, str) and _URL_WITH_PASSWORD.match(value):
        raise InvalidInputError(
            f"The configuration value {path!r} is a URL with a password in it. Hyperparameters are stored with every version "
            "and shown in the UI. Leave the password out of it, and load it inside the training loop."
        )
    if isinstance(value, Mapping):
        return {str(k): _checked(v, f"{path}.{k}", str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_checked(item, path, key) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInputError(
            f"The configuration value {path!r} is {value}, which JSON does not have; use a finite number or text."
        )
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InvalidInputError(
        f"The configuration value {path!r} is a {type(value).__name__}; use numbers, text, true/false, lists or objects."
    )


def _looks_secret(key: str) -> bool:
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
    words = [word for word in re.split(r"[^a-z0-9]+", split.lower()) if word]
    return bool(_SECRET_WORDS & set(words)) or any(
        pair in _SECRET_PAIRS for pair in pairwise(words)
    )
