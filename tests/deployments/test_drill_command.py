import pytest
from click.testing import CliRunner

from deployments.cli import pawl
from tests.support.factories import MadeUpRun, folder_store


@pytest.mark.parametrize("reference", ["digits@", "@3", "digits@3@4", "a/b", "..", "digits@-1"])
def test_what_names_no_version_is_refused_before_anything_starts(reference, monkeypatch):
    monkeypatch.setattr(
        "deployments.drill_command.prepare_prefect", lambda: pytest.fail("something was started")
    )
    result = CliRunner().invoke(pawl, ["drill", reference])
    assert result.exit_code == 2, result.output


@pytest.mark.parametrize(
    "words", [["drill", "digits@9"], ["drill", "nosuch"], ["promote", "digits@9"]]
)
def test_what_is_not_there_is_refused_before_anything_starts(words, monkeypatch, tmp_path):
    for name in ("drill", "promote"):
        monkeypatch.setattr(
            f"deployments.{name}_command.prepare_prefect",
            lambda: pytest.fail("something was started"),
        )
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    run.commit(10)
    result = CliRunner().invoke(pawl, [*words, "--storage", str(tmp_path)])
    assert result.exit_code == 2, result.output
    assert "digits" in result.stderr


def test_a_version_must_be_named():
    assert CliRunner().invoke(pawl, ["drill"]).exit_code == 2


class ReachedError(Exception):
    """The flow would begin now."""


@pytest.mark.parametrize(
    ("words", "started"),
    [([], False), (["--metric", "accuracy", "--mode", "max"], True), (["--metric", ""], False)],
)
def test_the_best_is_looked_for_by_the_metric_that_the_gate_goes_by(
    words, started, monkeypatch, tmp_path
):
    def start():
        raise ReachedError

    monkeypatch.setattr("deployments.promote_command.prepare_prefect", start)
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    run.commit(10, metrics={"accuracy": 0.5})
    result = CliRunner().invoke(
        pawl, ["promote", "digits@best", *words, "--storage", str(tmp_path)]
    )
    assert isinstance(result.exception, ReachedError) == started, result.output
