from __future__ import annotations

import pytest
from prefect.assets import Asset

from tasks.asset import asset_key


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/pawl", "s3://bucket/pawl/runs/digits"),
        ("/data/my store", "file:///data/my-store/runs/digits"),
    ],
)
def test_the_key_is_one_that_prefect_takes(url, expected):
    assert Asset(key=asset_key(url, "digits")).key == expected
