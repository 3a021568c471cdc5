"""What a node agent does with each staged shard: store it, and tell whoever coordinates what became of it.

Nothing but an answer leaves here: it goes into the training loop. What no coordinator hears now is said to the one that
lives in the end, since the failure budget is kept there.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError

from ray_workers.actor_errors import in_short, is_gone
from ray_workers.coordination import Coordination, Coordinator
from ray_workers.messages import SaveId, ShardReport, StagedShard, VersionOutcome
from ray_workers.metrics import RunMetrics
from ray_workers.pipeline import store_and_report
from ray_workers.store.errors import StoreUnavailableError
from ray_workers.telling_again import telling_again
from ray_workers.uploader import Uploader

__all__ = ["AgentSaves"]

_ACTOR_DIED = "the checkpoint actor died before this version was committed"
_AWAY_TRIES = 60
_AWAY_PAUSE_S = 1.0
_ANSWER_S = 30.0
"""A checkpoint actor that does not answer for so long stands still."""
_TELL_S = 60.0
"""So often the checkpoint actor hears that a shard is still being stored; far below what it waits without a word."""
_log = logging.getLogger(__name__)


class AgentSaves:
    """Called from as many threads as there are open saves.

    Args:
        uploader: stores the shards.
        coordination: knows who coordinates.
        metrics: told of each upload.
        node: this machine's name.
        sleep: a pause in seconds; replaced in tests.
    """

    def __init__(
        self,
        uploader: Uploader,
        coordination: Coordination,
        metrics: RunMetrics,
        node: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._uploader = uploader
        self._coordination = coordination
        self._metrics = metrics
        self._node = node
        self._sleep = sleep

    def save(self, staged: StagedShard) -> VersionOutcome:
        """Store a staged shard and answer with what became of its version. The buffer is free when this answers."""
        try:
            link = self._coordination.current()
        except StoreUnavailableError as error:
            return self._dropped(staged, error.message)
        self._metrics.staged(staged.bytes, self._node)
        try:
            with telling_again(
                lambda: link.actor.begin.remote(staged.save, staged.rank), every_s=_TELL_S
            ):
                outcome = store_and_report(
                    self._uploader,
                    staged,
                    link.fence,
                    functools.partial(self._report, link),
                    functools.partial(self._give_up, link),
                )
        except RayError as error:
            if not is_gone(error):
                return self._dropped(
                    staged, f"the checkpoint actor gave no answer: {in_short(error)}"
                )
            return self._lost(link, staged)
        finally:
            self._metrics.answered(self._node)
        return outcome or _nothing(staged, _ACTOR_DIED)

    def decline(self, save: SaveId, reason: str) -> None:
        """This node has no shard of `save`. Returns at once."""
        self._say(lambda actor: actor.give_up.remote(save, reason))

    def at_work(self) -> bool:
        """Whether the checkpoint actor answers. What a dead one took along is said to be lost, so that ends too."""
        try:
            ray.get(self._coordination.current().actor.process.remote(), timeout=_ANSWER_S)
        except StoreUnavailableError:
            return False
        except RayError as error:
            return is_gone(error)
        return True

    def _report(self, link: Coordinator, done: ShardReport) -> VersionOutcome:
        self._metrics.uploaded(done)
        return self._answer(lambda: link.actor.gather.remote(done))

    def _give_up(self, link: Coordinator, save: SaveId, reason: str) -> VersionOutcome:
        self._metrics.upload_failed()
        return self._answer(lambda: link.actor.give_up.remote(save, reason))

    def _answer(self, send: Callable[[], Any]) -> VersionOutcome:
        """A cut connection says nothing of the actor behind it; a message that it has had already changes nothing there."""
        for _ in range(_AWAY_TRIES):
            try:
                answer: VersionOutcome = ray.get(send())
            except ActorUnavailableError:
                self._sleep(_AWAY_PAUSE_S)
            else:
                return answer
        last: VersionOutcome = ray.get(send())
        return last

    def _lost(self, link: Coordinator, staged: StagedShard) -> VersionOutcome:
        """The coordinator took the shard with it. No store refused it, so none of the budget is spent."""
        self._coordination.bury(link)
        self._say(lambda actor: actor.lose.remote(staged.save, _ACTOR_DIED))
        return _nothing(staged, _ACTOR_DIED)

    def _dropped(self, staged: StagedShard, reason: str) -> VersionOutcome:
        told = f"rank {staged.rank}: {reason}"
        self.decline(staged.save, told)
        return _nothing(staged, told)

    def _say(self, send: Callable[[Any], Any]) -> None:
        """Have `send` bring a message to the checkpoint actor, or to its successor. Returns at once."""

        def hears(coordinator: Coordinator) -> bool:
            try:
                self._answer(lambda: send(coordinator.actor))
            except RayError as error:
                if is_gone(error):
                    return False
                _log.warning("The checkpoint actor could not be told: %s", in_short(error))
            return True

        tell = functools.partial(self._coordination.tell, hears)
        threading.Thread(target=tell, name="pawl-say", daemon=True).start()


def _nothing(staged: StagedShard, reason: str) -> VersionOutcome:
    return VersionOutcome(step=staged.progress.step, number=None, reason=reason)
