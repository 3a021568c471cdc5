import pytest

from tests.support.wheel_check import pins, problems


def resolved(name, version, file):
    url = f"https://index/{file}#sha256=0"
    return {"metadata": {"name": name, "version": version}, "download_info": {"url": url}}


def test_pins_are_read_with_markers_and_remarks_aside():
    lines = ["# remark", "", "My_Pack.age==1.2", "new==3 ; python_version >= '3.13'  # why"]
    assert pins(lines) == {"my-pack-age": "1.2", "new": "3"}


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (resolved("Torch", "2.13.0+cpu", "torch-2.13.0-cp312.whl"), []),
        (resolved("pawl", "0.1.0", "pawl"), []),
        (resolved("torch", "2.13.0", "torch-2.13.0.tar.gz"), ["torch 2.13.0 has no wheel"]),
        (resolved("torch", "2.14.0", "torch-2.14.0.whl"), ["torch 2.14.0 is not pinned"]),
        (resolved("other", "1", "other-1.whl"), ["other 1 is not pinned"]),
    ],
)
def test_a_package_without_wheel_or_pin_is_a_problem(item, told):
    assert list(problems({"install": [item]}, {"torch": "2.13.0"})) == told
