import pytest
from click.testing import CliRunner

from deployments.cli import pawl


@pytest.mark.parametrize("reference", ["digits@", "@3", "digits@3@4", "a/b", "..", "digits@-1"])
def test_what_names_no_version_is_refused_before_anything_starts(reference, monkeypatch):
    monkeypatch.setattr(
        "deployments.drill_command.prepare_prefect", lambda: pytest.fail("something was started")
    )
    result = CliRunner().invoke(pawl, ["drill", reference])
    assert result.exit_code == 2, result.output


def test_a_version_must_be_named():
    assert CliRunner().invoke(pawl, ["drill"]).exit_code == 2
