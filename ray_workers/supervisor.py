"""The driver's second thread while `fit()` blocks the first: watches the actors, validates, tells people.

It restarts a dead checkpoint actor as the next incarnation, under a fence of its own; tells every node agent who
coordinates; starts agents on nodes that joined; and keeps validation going in its own process.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    RayActorError,
    RayTaskError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_workers.checkpoint_actor import CheckpointActor, actor_name
from ray_workers.coordination import Coordinator
from ray_workers.interruption_watch import InterruptionWatch, TimeLimit
from ray_workers.log_collecting import LogCollector
from ray_workers.messages import PawlEvent, StopRequest
from ray_workers.node_agent import AgentConfig, NodeAgent, agent_name
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.rank_signs import RankPlaces
from ray_workers.ray_cluster import draining_nodes
from ray_workers.store.attempts import resumed_from, start_incarnation
from ray_workers.store.clock import utc_now
from ray_workers.store.errors import ConflictError, PawlError
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import VersionRef
from ray_workers.store.opening import StorageTarget
from ray_workers.validator_actor import Judged, ValidatorActor
from ray_workers.version_assembly import AttemptIdentity

__all__ = ["Supervision", "Supervisor"]

_POLL_S = 0.5
_CALL_TIMEOUT_S = 30.0
_INTERRUPTED_TIMEOUT_S = 2.0
"""The same for an attempt that must end within a grace period."""
_FENCE_CHECK_S = 5.0
_VALIDATOR_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    target: StorageTarget
    attempt: AttemptIdentity
    failure_budget: int
    agent: AgentConfig
    policy: SoundnessPolicy
    validation_timeout_s: float
    hot_restore: bool
    """Leave the staging files of an attempt that fails to the next one."""
    on_event: Callable[[PawlEvent], None]
    limit: TimeLimit | None = None


@dataclass(slots=True)
class _Validation:
    actor: Any = None
    call: Any = None
    since: float = 0.0
    failures: int = 0
    wanted: bool = True


class Supervisor:
    """Use as a context manager around `fit()`, on the thread that connected to Ray."""

    def __init__(self, task: Supervision) -> None:
        self._task = task
        self._attempt = task.attempt
        self._incarnation = 0
        self._log = RunLog(
            task.target.open().store, task.attempt.run, by=task.attempt.by, patience_s=120.0
        )
        self._actor: Any = None
        self._agents: dict[str, Any] = {}
        self._stop: str | None = None
        self._interruption: StopRequest | None = None
        self._interrupted_at = 0.0
        self.places = RankPlaces()
        self._watch = InterruptionWatch(
            limit=task.limit, draining=draining_nodes, place=self.places.place
        )
        self._validation = _Validation()
        self._log_lines = LogCollector(task.on_event)
        self._fence_checked = time.monotonic()
        self._done = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def fence(self) -> int:
        """The fence that commits now; a restarted checkpoint actor has another than the attempt began with."""
        return self._attempt.fence

    @property
    def stop_reason(self) -> str | None:
        return self._stop

    @property
    def interruption(self) -> StopRequest | None:
        """What asked for the end, with the grace that is left by now; None: nothing did."""
        asked = self._interruption
        return None if asked is None else asked.after(time.monotonic() - self._interrupted_at)

    def interrupt(self, request: StopRequest) -> None:
        """Let the workers end at their next step, with a last version if it fits into the grace. From any thread.

        The first request stands. It is passed on here at once: this object's own thread may be waiting for a store.
        """
        if self._interruption is None:
            self._interrupted_at = time.monotonic()
            self._interruption = request
            self._attach(list(self._agents.values()))
            self._wake.set()

    def __enter__(self) -> Self:
        self._start_actor()
        self._watch_agents()
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="pawl-supervisor", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._done.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(self._patience_s)
        self._drain()
        self._log_lines.finish(self._agents, self._patience_s)
        # What failed will be tried again, and comes back from this memory; what was ended by a person will not.
        failed = kind is not None and issubclass(kind, Exception) and self.interruption is None
        if not (self._task.hot_restore and failed):
            for agent in self._agents.values():
                agent.release.remote(None)
        for actor in (self._actor, self._validation.actor):
            if actor is not None:
                ray.kill(actor)
        for agent in self._agents.values():
            ray.kill(agent)

    @property
    def _patience_s(self) -> float:
        return _CALL_TIMEOUT_S if self._interruption is None else _INTERRUPTED_TIMEOUT_S

    def settle(self, timeout_s: float) -> None:
        """After the workers ended: let a version whose shards are on their way become one, and be told of."""
        try:
            ray.get(self._actor.settle.remote(timeout_s), timeout=timeout_s + 5)
        except (RayActorError, GetTimeoutError):
            return

    def finish_validation(self, timeout_s: float) -> None:
        """Wait until no version waits for a verdict, at most `timeout_s` seconds."""
        self._validation.wanted = True
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._validation.failures < _VALIDATOR_TRIES:
            if not self._validation.wanted and self._validation.call is None:
                return
            time.sleep(0.05)  # the supervisor thread does the work

    def _run(self) -> None:
        told = False
        while not self._done.is_set():
            self._wake.wait(_POLL_S)
            self._wake.clear()
            if self._interruption is not None and not told:
                told = True
                self._tell_interruption(self._interruption)
            try:
                self._drain()
                self._watch_agents()
                self._watch_for_interruptions()
                self._log_lines.collect(self._agents)
                self._check_fence()
                self._drive_validation()
            except PawlError as error:
                self._tell(
                    "supervisor", f"The supervisor met a problem and goes on: {error.message}"
                )

    # --- checkpoint actor ------------------------------------------------------------------------------------------

    def _start_actor(self) -> None:
        attempt = self._attempt
        self._actor = CheckpointActor.options(  # type: ignore[attr-defined]
            name=actor_name(attempt.run_id, attempt.fence)
        ).remote(self._task.target, attempt, self._task.failure_budget)

    def _drain(self) -> None:
        try:
            events, stop = ray.get(self._actor.drain_events.remote(), timeout=self._patience_s)
        except (GetTimeoutError, ActorUnavailableError):
            return
        except RayActorError as error:
            if not self._done.is_set() and self._stop is None:
                self._replace_actor(error)
            return
        for event in events:
            self._task.on_event(event)
            if event.kind == "committed":
                self._validation.wanted = True
                self._watch.committed(event)
        self._stop = self._stop or stop

    def _replace_actor(self, error: Exception) -> None:
        """The next incarnation takes its own fence first: from then on its dead predecessor can commit nothing."""
        self._incarnation += 1
        try:
            fence = start_incarnation(self._log, self._attempt.fence, self._incarnation)
        except ConflictError as conflict:
            self._stop = "fence_lost"
            self._tell("fence_lost", conflict.message, **conflict.details)
            return
        newest = self._log.state.attempts.get(self._attempt.fence)
        parent = resumed_from(self._log.state, self._attempt.fence) or self._attempt.parent
        if newest is not None and newest.last_commit is not None:
            version = self._log.state.versions[newest.last_commit]
            parent = VersionRef(run=None, number=version.number, digest=version.manifest)
        self._attempt = replace(self._attempt, fence=fence, parent=parent)
        self._start_actor()
        self._tell(
            "actor_restarted",
            f"The checkpoint actor died ({type(error).__name__}); incarnation {self._incarnation} goes on under fence "
            f"{fence}. The version that was in flight is dropped, committed ones are untouched.",
            fence=fence,
        )

    def _check_fence(self) -> None:
        """A training that saves rarely should still learn soon that it was overtaken."""
        if self._stop is not None or time.monotonic() - self._fence_checked < _FENCE_CHECK_S:
            return
        self._fence_checked = time.monotonic()
        state = self._log.refresh()
        if state.open_fence == self._attempt.fence:
            return
        by = state.open_attempt
        self._stop = "fence_lost"
        self._actor.stop.remote("fence_lost")
        holder = (
            f"flow run {by.flow_run_id}, fence {by.fence}"
            if by is not None
            else "nobody: it was closed"
        )
        self._tell("fence_lost", f"The run is owned by {holder} now; this attempt ends.")

    # --- node agents -------------------------------------------------------------------------------------------------

    def _watch_agents(self) -> None:
        names: dict[str, str] = {}
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            node_id = node["NodeID"]
            if node["Alive"]:
                names[node_id] = str(node["NodeManagerHostname"])
            if not node["Alive"]:
                self._agents.pop(node_id, None)
            elif node_id not in self._agents:
                self._agents[node_id] = self._start_agent(node_id)
        self._attach(list(self._agents.values()))
        self.places.look(self._agents, names)

    def _attach(self, agents: list[Any]) -> None:
        stop = StopRequest(reason=self._stop) if self._stop is not None else self.interruption
        link = Coordinator(actor=self._actor, fence=self._attempt.fence, stop=stop)
        for agent in agents:
            agent.attach.remote(link)

    def _start_agent(self, node_id: str) -> Any:
        name = agent_name(self._attempt.run_id, self._task.agent.staging.fence, node_id)
        place = NodeAffinitySchedulingStrategy(node_id, soft=False)
        return NodeAgent.options(name=name, scheduling_strategy=place).remote(  # type: ignore[attr-defined]
            self._task.agent
        )

    # --- validation --------------------------------------------------------------------------------------------------

    def _drive_validation(self) -> None:
        """One call at a time; a crash or a time-out costs the validator its process, and training nothing."""
        work = self._validation
        if work.failures >= _VALIDATOR_TRIES:
            return
        if work.call is None and work.wanted:
            work.actor = work.actor or ValidatorActor.remote(  # type: ignore[attr-defined]
                self._task.target, self._attempt.run, self._task.policy
            )
            work.call, work.since = work.actor.validate_next.remote(), time.monotonic()
        if work.call is None:
            return
        if not ray.wait([work.call], timeout=0)[0]:
            if time.monotonic() - work.since > self._task.validation_timeout_s:
                self._lose_validator(f"no answer for {self._task.validation_timeout_s:.0f} s")
            return
        call, work.call = work.call, None
        try:
            judged: Judged | None = ray.get(call)
        except (RayActorError, RayTaskError) as error:
            self._lose_validator(str(error).strip().splitlines()[-1])
            return
        work.wanted = judged is not None
        if judged is not None:
            work.failures = 0
            self._tell_verdict(judged)

    def _lose_validator(self, why: str) -> None:
        work = self._validation
        if work.actor is not None:
            ray.kill(work.actor)
        work.actor, work.call, work.failures = None, None, work.failures + 1
        self._tell(
            "validator_lost", f"Validation failed and is tried again ({work.failures}): {why}"
        )

    def _tell_verdict(self, judged: Judged) -> None:
        if judged.reason is not None:
            text = f"Version {judged.number} (step {judged.step}) is quarantined: {judged.reason}"
        elif judged.problem is not None:
            text = f"Version {judged.number} (step {judged.step}) stays {judged.rung}: {judged.problem}"
        else:
            text = f"Version {judged.number} (step {judged.step}) is {judged.rung}"
        self._tell(
            "verdict",
            text,
            number=judged.number,
            rung=judged.rung,
            reason=judged.reason or judged.problem,
        )

    def _watch_for_interruptions(self) -> None:
        if self._interruption is None and (asked := self._watch.asked(self._agents)) is not None:
            self.interrupt(asked)

    def _tell_interruption(self, asked: StopRequest) -> None:
        self._tell(
            "interrupted",
            f"{asked.told}: the workers end at their next step. They save once more if that can be done in "
            f"{asked.grace_s:.0f} s.",
            cause=asked.cause,
            grace_s=asked.grace_s,
        )

    def _tell(self, kind: str, message: str, **details: Any) -> None:
        self._task.on_event(PawlEvent(kind=kind, message=message, at=utc_now(), details=details))
