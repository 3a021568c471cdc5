import numpy as np
import pytest

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
