"""Whoever knows the attempt finds the checkpoint actor that commits for it, by its name alone."""

from __future__ import annotations

from ray_workers.checkpoint_actor import actor_name, newest_name

RUN = "0123456789abcdef" * 2


def test_the_newest_of_the_attempt_s_own_is_found_and_no_other_attempt_s():
    names = [actor_name(RUN, 2, 2), actor_name(RUN, 2, 11), actor_name(RUN, 2, 9)]
    others = [actor_name(RUN, 21, 30), actor_name("f" * 32, 2, 40), "pawl-agent-x", "someone's"]
    assert newest_name(RUN, 2, [*others, *names]) == actor_name(RUN, 2, 11)
    assert newest_name(RUN, 2, others) is None
