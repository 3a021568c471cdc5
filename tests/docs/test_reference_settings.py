"""docs/reference.md has every group of settings, and what a user's own check and loop are given."""

from pathlib import Path

import pytest

from ray_workers import config
from ray_workers.config.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
GROUPS = {
    name: group
    for name in config.__all__
    if isinstance(group := getattr(config, name), type) and issubclass(group, Settings)
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_of_settings_has_a_table_of_its_fields(name):
    _, found, below = PAGE.partition(f"### `{name}`\n")
    assert found
    table = below.partition("\n#")[0]
    for field, info in GROUPS[name].model_fields.items():
        assert f"| `{field}` |" in table
        assert info.description


def test_there_are_groups():
    assert {"Saving", "Retention", "PromotionGate"} <= set(GROUPS)


@pytest.mark.parametrize("name", ["ray_workers.user_checks.StoredVersion", "ray_workers.sampling.GlobalBatches", "CheckpointSession.restored_directory"])  # fmt: skip
def test_what_a_loop_and_a_check_use_is_there(name):
    assert f"### `{name}`\n" in PAGE
