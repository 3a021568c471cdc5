from ray_workers.environment import changes, describe_environment


def test_only_what_may_change_the_result_counts_as_a_change():
    before = {
        **describe_environment(), "torch": "1.0", "pawl": "0.0", "code": "x", "dropped_saves": "3", "dropped_reason": "full",
    }  # fmt: skip
    assert set(changes(before)) == {"torch"}
