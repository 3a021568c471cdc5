"""What a run's own policy says about retries, and what its flow says."""

import pytest
from prefect.client.schemas.objects import FlowRunPolicy

from tasks.run_identity import policy_to_put_back


def test_a_form_that_says_no_retries_gets_those_of_the_flow():
    given = FlowRunPolicy(retries=0, retry_delay=0, pause_keys={"asked"})
    policy = policy_to_put_back(given, 3, 5)
    assert policy is not None
    assert (policy.retries, policy.retry_delay) == (3, 5)
    assert policy.pause_keys == {"asked"}


@pytest.mark.parametrize(
    ("given", "of_the_flow"),
    [
        (FlowRunPolicy(retries=1), 3),  # somebody filled it in
        (FlowRunPolicy(), 3),  # Prefect takes the flow's by itself
        (FlowRunPolicy(retries=0), 0),  # pawl train --retries 0
    ],
)
def test_what_somebody_said_stays(given, of_the_flow):
    assert policy_to_put_back(given, of_the_flow, 5) is None


def test_the_first_of_several_delays_is_used():
    policy = policy_to_put_back(FlowRunPolicy(retries=0), 2, [7.0, 60.0])
    assert policy is not None
    assert policy.retry_delay == 7
