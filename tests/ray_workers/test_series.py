import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from ray_workers.series import MetricSeries


def grown(count):
    series = MetricSeries()
    for step in range(1, count + 1):
        series.append(step, {"loss": 1 / step})
    return series


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000])
def test_what_was_stored_goes_on_where_it_ended(count):
    again = MetricSeries()
    again.load(grown(count).state())
    again.append(count + 1, {"loss": 0.5})
    (curve,) = again.curves().values()
    assert (curve.steps[-1], curve.values[-1]) == (count + 1, 0.5)
    assert len(again.state()["loss"]["steps"]) >= count + 1
    assert again.state()["loss"]["count"] == count + 1


def test_the_layout_changes_by_doubling_alone():
    shapes = [grown(count).state()["loss"]["values"].shape for count in range(1, 300)]
    assert len(set(shapes)) == 4  # 64, 128, 256, 512


def test_a_series_stored_without_a_count_is_read_whole():
    series = MetricSeries()
    series.load({"loss": {"steps": np.array([1, 2]), "values": np.array([0.5, 0.25])}})
    assert series.latest() == {"loss": 0.25}
    assert series.state()["loss"]["count"] == 2


HALF = [
    0.5, Decimal("0.5"), Fraction(1, 2), np.float32(0.5), np.array(0.5), np.array([[0.5]]), torch.tensor(0.5),
    torch.tensor([0.5], dtype=torch.bfloat16, requires_grad=True),
]  # fmt: skip
ONE = [1, True, np.True_, np.int8(1), np.array([True]), torch.tensor(1), torch.tensor([True])]
NO_NUMBERS = {
    "None": None,
    "a str": "0.5",
    "a complex": 1j,
    "a complex64": np.complex64(1),
    "a int": 10**400,
    "a list": [0.5],
    "a dict": {},
    "a ndarray of shape \\(2,\\)": np.zeros(2),
    "a ndarray of shape \\(0,\\)": np.zeros(0),
    "a ndarray of shape \\(1,\\)": np.array(["0.5"]),
    "a Tensor of shape \\(2,\\)": torch.zeros(2),
    "a Tensor of shape \\(1,\\)": torch.ones(1, dtype=torch.complex64),
    "a Tensor$": torch.zeros((), device="meta"),
}


@pytest.mark.parametrize(("value", "number"), [(v, 0.5) for v in HALF] + [(v, 1.0) for v in ONE])
def test_what_holds_one_number_is_that_number(value, number):
    series = MetricSeries()
    series.append(1, {"x": value})
    assert series.latest() == {"x": number}


@pytest.mark.parametrize("what", NO_NUMBERS)
def test_what_is_no_number_is_left_out_and_said_once_for_each_name(what, caplog):
    series = MetricSeries()
    series.append(1, {"loss": 0.5, "odd": 1.0})
    for step in (2, 3):
        series.append(step, {"loss": 0.25, "odd": NO_NUMBERS[what], "bad": NO_NUMBERS[what]})
    curves = series.curves()
    assert curves.keys() == {"loss", "odd"}
    assert (curves["odd"].steps, curves["loss"].steps) == ((1,), (1, 2, 3))
    assert [record.args[0] for record in caplog.records] == ["odd", "bad"]
    assert re.search(what, str(caplog.records[0].args[2]))


def test_an_error_of_the_device_is_not_taken_for_a_bad_metric(monkeypatch):
    def broken(_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.Tensor, "item", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        MetricSeries().append(1, {"loss": torch.tensor(0.5)})
