"""An agent begins whether or not there is a store: Ray never restarts an actor that could not begin."""

from __future__ import annotations

from ray_workers import node_agent, validator_actor
from ray_workers.messages import DriverNews
from ray_workers.node_agent import AgentConfig, NodeAgent
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.staging_files import StagingFolder
from ray_workers.store.errors import StoreUnavailableError
from ray_workers.store.opening import StorageTarget
from ray_workers.validator_actor import ValidatorActor
from tests.support.factories import MadeUpRun


def test_it_begins_while_the_store_is_away(tmp_path, monkeypatch):
    def away(*_: object, **__: object) -> None:
        raise StoreUnavailableError("Connection refused")

    monkeypatch.setattr(StorageTarget, "open", away)
    monkeypatch.setattr(node_agent, "lower_priority", lambda: None)  # of this process, for ever
    staging = StagingFolder(folder=tmp_path, run_id="0" * 32, fence=2)
    config = AgentConfig(
        target=StorageTarget("s3://bucket/runs"), run="run", staging=staging, upload_tries=1
    )
    agent = NodeAgent.__ray_metadata__.modified_class(config)  # type: ignore[attr-defined]
    assert agent.news() == DriverNews()
    (path,) = agent.allocate(0, 1, 4096)
    assert staging.owns(path)


def test_validation_leaves_the_processor_to_training(tmp_path, monkeypatch):
    lowered = []
    monkeypatch.setattr(validator_actor, "lower_priority", lambda: lowered.append(True))
    run = MadeUpRun(store=StorageTarget(str(tmp_path)).open(create=True).store, name="run")
    run.start()
    actor = ValidatorActor.__ray_metadata__.modified_class  # type: ignore[attr-defined]
    actor(StorageTarget(str(tmp_path)), "run", SoundnessPolicy())
    assert lowered


def test_memory_that_is_being_reserved_keeps_nothing_else_waiting():
    groups = NodeAgent.__ray_metadata__.method_meta.concurrency_group_for_methods  # type: ignore[attr-defined]
    others = {group for method, group in groups.items() if method != "allocate"}
    assert others == {"control", "io"}
    assert groups["allocate"] not in others
