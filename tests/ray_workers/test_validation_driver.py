"""A validator that is lost costs its process, whichever way it was lost."""

from __future__ import annotations

import pytest
import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError

from ray_workers import validation_driver
from ray_workers.messages import PawlEvent
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.store.opening import StorageTarget
from ray_workers.validation_driver import ValidationDriver
from tests.support.fake_actor import FakeActor, without_ray


@pytest.mark.parametrize(
    "error", [ActorDiedError(), OutOfMemoryError("killed by Ray"), RayError("of any other type")]
)
def test_a_lost_validator_is_told_of_and_raises_nothing(monkeypatch, error):
    without_ray(monkeypatch)
    killed: list[object] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    actor = FakeActor(validate_next=[error])
    made = type("Made", (), {"remote": staticmethod(lambda *_: actor)})
    monkeypatch.setattr(validation_driver, "ValidatorActor", made)
    told: list[PawlEvent] = []
    driver = ValidationDriver(
        StorageTarget("memory://x"), "run", SoundnessPolicy(), timeout_s=60, on_event=told.append
    )
    driver.drive()
    assert [event.kind for event in told] == ["validator_lost"]
    assert killed == [actor]
