"""What the training task hands to the trainer; Prefect and Ray are stubbed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

from tasks import training


def test_the_code_version_of_the_project_goes_along(monkeypatch, tmp_path):
    monkeypatch.setenv("PAWL_CODE_VERSION", "v7")
    for name in ("LineagePublisher", "ProgressBar", "_teller", "_seconds_left"):
        monkeypatch.setattr(training, name, mock.MagicMock(return_value=None))
    monkeypatch.setattr(training, "LineagePublisher", mock.MagicMock())
    monkeypatch.setattr(training, "failures_elsewhere", lambda _: ())
    trained = []
    monkeypatch.setattr(training, "train", lambda job, **_: trained.append(job))
    request = mock.MagicMock(code_dir=tmp_path, job_wish=None)
    attempt: Any = SimpleNamespace(
        request=request, finished=None, run_id="r", fence=1, by={}, job=None
    )
    training.run_training(attempt, None)
    assert (trained[0].code, trained[0].code_dir) == ("v7", tmp_path)
