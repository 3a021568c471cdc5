"""Where all ranks meet: rank 0 says whether to save, go on or end, and every rank does it."""

from __future__ import annotations

import logging
import time
from typing import Any

from ray_workers.context import TrainingContext
from ray_workers.deciding import Decider
from ray_workers.decisions import Decision, DecisionChannel
from ray_workers.directory import pack_directory
from ray_workers.drill_notes import DrillEnded
from ray_workers.live_run import LiveRun
from ray_workers.rank_content import RankContent
from ray_workers.saver import Saver
from ray_workers.stopping import stop_error
from ray_workers.store.errors import InvalidInputError

__all__ = ["SaveRounds"]

_FINAL_PATIENCE_S = 900.0
"""After so long it is asked, again and again, whether what an open save waits for still stands."""
_LOOK_S = 60.0
_ROOM_S = 1.0
"""Rank 0 knows of no open save any more, so answers to other ranks are on their way."""

_log = logging.getLogger("pawl")


class SaveRounds:
    """One rank's part in all rounds of an attempt.

    Raises, from every method that meets the others: what ends the attempt (`CheckpointSession.advance` lists it).
    """

    def __init__(
        self, context: TrainingContext, channel: DecisionChannel, saver: Saver, live: LiveRun
    ) -> None:
        self._context = context
        self._channel = channel
        self._saver = saver
        self._live = live
        self._books = Decider(
            context,
            saver,
            step=live.step,
            epoch=live.epoch,
            committed_step=live.committed_step,
        )
        self._next_agreement = live.step + 1
        self._said = False

    def stepped(self) -> None:
        """A step ended. No rank waits for another one here."""
        self._books.stepped()

    @property
    def due(self) -> bool:
        """The ranks meet at this step."""
        return self._live.step >= self._next_agreement

    def settle(self, patience_s: float) -> None:
        """Wait so long for the outcome of the saves that are open."""
        with self._context.heart.resting():
            self._books.hear(self._saver.wait(patience_s))

    def _settle_all(self) -> None:
        """Wait for the outcome of the open saves, however slow the store: each upload ends by its own tries.

        They are left open only when an agent or a checkpoint actor stands still, which ends by nothing else.
        """
        self.settle(_FINAL_PATIENCE_S)
        while self._saver.in_flight and self._context.pipeline.at_work():
            self.settle(_LOOK_S)

    def meet(self) -> None:
        """All ranks are here at the same step; rank 0 says what happens."""
        self._books.hear(self._saver.collect())
        books, live = self._books, self._live
        if live.step == books.saved_step:
            books.saved_epoch = live.epoch  # an epoch's end is saved with its last step
        last = live.parts is not None and live.step > books.saved_step and live.at_place
        # The final save is due at once, and says that the run is finished.
        save = not live.at_end and live.at_place and books.due(live.step, live.epoch)
        self._act(self._channel.agree(books.decision(live.step, save=save, last=last)))

    def meet_between_epochs(self) -> None:
        """As `meet`, unless batches wait for a step in the next epoch: then nothing happens before that step.

        Whether they do is rank 0's to say: ranks whose last batches differ in number must meet all the same.
        """
        live = self._live
        # A loop that hands over directories saves what and when it likes.
        waiting = live.batches_since_step if live.parts is not None else 0
        if waiting:
            self._say_once(waiting)
        if waiting and live.has_places:
            self._act(self._channel.agree(self._books.later(live.step + 1)))
        else:
            self.meet()

    def meet_with(self, checkpoint: Any | None) -> None:
        """As `meet`, of a loop that hands over a directory, or none on this rank."""
        wanted = checkpoint is not None
        if wanted:
            self._settle_all()
        else:
            self._books.hear(self._saver.collect())
        step = self._live.step
        decision = self._channel.agree(self._books.decision(step, save=wanted, last=wanted))
        content = None
        if decision.save:
            self._settle_all()
            metrics = self._live.series.latest()
            content = pack_directory(checkpoint, rank=self._context.rank, metrics=metrics)
        elif wanted and decision.stop is None:
            raise InvalidInputError(
                f"Rank {self._context.rank} handed over a checkpoint at step {step} and rank 0 none: rank 0 must too."
            )
        self._act(decision, content)

    def finish(self) -> None:
        """Make the final state a version, and return only when that is known."""
        books, live = self._books, self._live
        while True:
            self._settle_all()
            if self._saver.in_flight or self._lost_a_directory():
                books.stop = books.stop or "stopped"  # must not end as a silent success
            # Only another attempt than the one that committed a step may make a second version of it.
            unsaid = live.progress.finished and not (live.began_finished or books.committed)
            wanted = live.parts is not None and (live.step > books.committed_step or unsaid)
            decision = self._channel.agree(books.decision(live.step, save=wanted, last=wanted))
            self._act(decision)
            if not decision.save:
                break
        if self._context.announcer is not None:
            self._context.announcer.close()
        self._saver.close()

    def _say_once(self, waiting: int) -> None:
        if self._said or self._context.rank != 0:
            return
        self._said = True
        if self._live.has_places:
            what = "No version is made there, as it would lack their gradients; the next one is made after a later step."
        else:
            what = "A version made there lacks their gradients, so a resume from it is not exact."
        _log.warning(
            "%d batches at the end of the epoch wait for a step in the next one. %s Step once more at the end of an epoch, or "
            "leave those batches out, to save there exactly.",
            waiting,
            what,
        )

    def _lost_a_directory(self) -> bool:
        """The last one that this attempt was handed is no version, and is not there to be handed over once more."""
        books, live = self._books, self._live
        saved = books.saved_step > live.first_step
        return live.parts is None and saved and books.committed_step < books.saved_step

    def _act(self, decision: Decision, content: RankContent | None = None) -> None:
        ends_at = time.monotonic() + decision.grace_s
        self._next_agreement = decision.next_step
        live = self._live
        if decision.announce is not None and self._context.announcer is not None:
            self._context.announcer.announce(decision.announce, live.step, live.series.latest())
        if decision.save:
            if self._saver.flights >= self._context.buffers:
                # To an end it is worth waiting for room.
                self.settle(_ROOM_S if decision.stop is None else decision.grace_s)
            self._saver.stage(content or self._content(), live.progress)
            self._books.staged(live.step, live.epoch)
        if decision.stop is not None:
            self._end(decision, ends_at)

    def _content(self) -> RankContent:
        return self._live.content(pace=self._books.pace, interrupted_by=self._books.interrupted_by)

    def _end(self, decision: Decision, ends_at: float) -> None:
        """All ranks leave the loop here; interrupted ones when they know what became of their last saves, or at `ends_at`."""
        live = self._live
        if self._context.drill:
            done, metrics = live.step - live.first_step, live.series.latest()
            raise DrillEnded(
                done, metrics, live.start_seconds, live.probed, through=live.progress.finished
            )
        if decision.stop == "interrupted":
            self.settle(max(0.0, ends_at - time.monotonic()))
        raise stop_error(
            self._books.stop or decision.stop or "stopped",
            run=self._context.run,
            step=live.step,
            committed_step=self._books.committed_step,
        )
