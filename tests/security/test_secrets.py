"""What may hold a secret does not show it: every field so named is kept out of `repr`, and refusals repeat nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from click.testing import CliRunner

from deployments.cli import pawl
from ray_workers.config import hyperparameters
from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.opening import StorageTarget

CANARY = "canary-5e1f"
NO_SECRETS = {
    "deployments/ceph.py:S3Access.access_key",  # the user's name at the local server
    "deployments/ceph.py:GatewayWish.access_key",
    "tasks/blocks.py:PawlStorage.credentials_block",  # a name
}
_ROOT = Path(__file__).parents[2]


def secret_fields() -> dict[str, bool]:
    """Every field of a class whose name sounds like a secret, and whether it is hidden."""
    found: dict[str, bool] = {}
    for package in ("deployments", "flows", "ray_workers", "tasks"):
        for path in sorted((_ROOT / package).rglob("*.py")):
            for made in ast.walk(ast.parse(path.read_text())):
                if isinstance(made, ast.ClassDef):
                    place = f"{path.relative_to(_ROOT)}:{made.name}"
                    found |= {f"{place}.{n}": hidden for n, hidden in _fields(made)}
    return found


def _fields(made: ast.ClassDef):
    for line in made.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            name = line.target.id
            if hyperparameters._looks_secret(name):
                default = "" if line.value is None else ast.unparse(line.value)
                yield name, "repr=False" in default or "SecretStr" in ast.unparse(line.annotation)


def test_every_field_that_holds_a_secret_is_hidden():
    fields = secret_fields()
    assert "ray_workers/store/credentials.py:S3Credentials.secret_access_key" in fields
    assert "tasks/blocks.py:PawlCluster.token" in fields
    assert {name for name, hidden in fields.items() if not hidden} == NO_SECRETS


@pytest.mark.parametrize(
    "url",
    [
        f"s3://me:{CANARY}@bucket/x", f"s3://{CANARY}@bucket", f"s3://bucket/x?token={CANARY}", f"s3://bucket/x#{CANARY}",
        f"https://me:{CANARY}@host/bucket", f"file://me:{CANARY}@host/x", f"file:///x?token={CANARY}",
    ],
)  # fmt: skip
def test_a_url_with_a_secret_is_refused_and_not_repeated(url):
    with pytest.raises(InvalidInputError) as caught:
        StorageTarget(url)
    assert CANARY not in f"{caught.value!r} {caught.value} {caught.value.details}"
    result = CliRunner().invoke(pawl, ["runs", "--storage", url])
    assert result.exit_code == 2
    assert CANARY not in result.output


@pytest.mark.parametrize("url", [f"http://me:{CANARY}@h", f"http://h/?{CANARY}", f"h:{CANARY}"])
def test_an_endpoint_with_a_secret_is_refused_and_not_repeated(url, monkeypatch):
    with pytest.raises(InvalidInputError) as caught:
        S3Credentials(endpoint_url=url)
    assert CANARY not in f"{caught.value!r} {caught.value.details}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    result = CliRunner().invoke(pawl, ["runs", "--storage", "s3://bucket"])
    assert result.exit_code == 2
    assert CANARY not in result.output
