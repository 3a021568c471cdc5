"""`CheckpointSession`: all that a training loop touches.

    with CheckpointSession.open(model=model, optimizer=optimizer, loader=loader) as session:  # restored here
        for batch in session.batches(epochs=3):
            loss = step(model, optimizer, batch)
            session.advance(loss=loss)  # counts the step; saves when the policy says so; never waits for the store

Every rank opens one session and makes the same calls in the same order, as with collectives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.optim.optimizer import register_optimizer_step_pre_hook

from ray_workers.arithmetic_exactness import announce_arithmetic
from ray_workers.coming_back import come_back
from ray_workers.context import TrainingContext, check_unclaimed, claim_session, current_context
from ray_workers.data_exactness import announce_loader
from ray_workers.decisions import open_channel
from ray_workers.live_content import check_parts
from ray_workers.live_run import LiveRun
from ray_workers.loss_probe import Probe
from ray_workers.save_rounds import SaveRounds
from ray_workers.saver import Saver
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.opening import StorageTarget
from ray_workers.training_state import Stateful, TrainingParts, check_stateful

__all__ = ["CheckpointSession"]


class CheckpointSession:
    """One worker's view of the run while it trains. Use `open`, as a context manager."""

    def __init__(
        self,
        context: TrainingContext,
        parts: TrainingParts | None,
        loader: Any | None,
        probe: Probe | None = None,
        own: Mapping[str, Stateful] | None = None,
    ) -> None:
        self._context = context
        own = dict(own or {})
        if parts is not None:
            # Now, and not at the first save, when work is there to be lost.
            check_parts(parts, own, rank=context.rank)
        # Without parts the loop itself says when to save.
        paced = context.interval is not None and parts is not None
        announce_loader(loader, context.thresholds, rank=context.rank, paced=paced)
        if parts is not None and context.rank == 0:
            announce_arithmetic(parts.model, world_size=context.world_size)
        self._live = LiveRun(context, parts, loader, probe, own)
        channel = open_channel(context.world_size)
        self._saver = Saver(
            context.pipeline,
            rank=context.rank,
            world_size=context.world_size,
            buffers=context.buffers,
            full_every=context.full_every,
            resting=context.heart.resting,
        )
        if context.resume is not None:
            back = come_back(context, channel, parts, context.resume)
            self._live.restored(back)
            if not back.point.foreign:
                self._saver.resumed(back.manifest)
        self._rounds = SaveRounds(context, channel, self._saver, self._live)
        # For every optimizer of the process: one that was not handed over may hold the same parameters.
        self._step_hook = register_optimizer_step_pre_hook(self._before_step)

    @classmethod
    def open(  # noqa: PLR0913 - a name for each kind of thing that a loop holds
        cls,
        *,
        model: Any | None = None,
        optimizer: Any | None = None,
        loader: Any | None = None,
        scheduler: Any | None = None,
        extra: dict[str, Any] | None = None,
        own: dict[str, Any] | None = None,
        probe: Probe | None = None,
    ) -> Self:
        """Join the run and restore the version that this attempt resumes from, if there is one.

        Args:
            model: a module, plain or wrapped by DDP or FSDP2.
            optimizer: an optimizer, or several in a list or dict.
            loader: what `batches` iterates; with a `state_dict` (StatefulDataLoader) nothing is loaded twice after a resume.
            scheduler: a learning-rate scheduler, or several in a list or dict.
            probe: gives the model's loss on a small fixed batch; evaluated at every save, by all ranks together, in
                evaluation mode and without gradients. `Validation.probe` evaluates it again from the stored bytes.
            extra: anything else with `state_dict` and `load_state_dict`, by name (EMA, gradient scaler …), that is the same on
                all ranks: rank 0's is stored, and every rank gets it back.
            own: the same of what each rank has alone (a replay buffer, a sampler's history): every rank's is stored, and each
                rank gets its own back. All ranks hand over the same names.

        Raises:
            InvalidInputError: the loop was not started by Pawl, or has opened a session already; or something that was handed
                over cannot be stored.
            StateMismatchError: the stored state does not fit the model; the sentence names the differences.
            DamageError: the version is not what was written, and no other one can be resumed. The parts hold anything by
                then and must not be trained.
        """
        context, parts = current_context(), None
        check_unclaimed()
        if model is not None:
            parts = TrainingParts(
                model=model, optimizer=optimizer, scheduler=scheduler, extra=dict(extra or {})
            )
        elif own:
            raise InvalidInputError(
                "`own` was handed over without a model: a session that stores directories keeps nothing else. Write its state "
                "into the directory."
            )
        check_stateful("own", own or {})
        session = cls(context, parts, loader, probe, own)
        claim_session()  # an open that was refused may be mended and tried again
        return session

    def __enter__(self) -> Self:
        self._live.restore_rng()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._rounds.finish()
                self._context.heart.over()  # the loop may work on, and takes no step any more
        finally:
            self._step_hook.remove()
            self._saver.hand_over_all()  # a loop that fails now still leaves what it had staged

    def _before_step(self, *_: object) -> None:
        self._saver.before_step()

    @property
    def rank(self) -> int:
        return self._context.rank

    @property
    def world_size(self) -> int:
        return self._context.world_size

    @property
    def step(self) -> int:
        """Optimizer steps done since the run began."""
        return self._live.step

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self._live.epoch

    @property
    def storage(self) -> StorageTarget:
        return self._context.storage

    @property
    def restored_directory(self) -> Path | None:
        """The files of the version resumed from, when a loop hands over directories; else None."""
        return self._live.directory

    def batches(self, *, epochs: int) -> Iterator[Any]:
        """The batches that are left, epoch by epoch, until `epochs` epochs are done since the run began.

        Batches may be gathered for one step. Where the last ones of an epoch wait for a step in the next, no version is
        made between the two: it would lack their gradients.

        Raises:
            InvalidInputError: `epochs` is no whole number; there is no loader, or a whole epoch of it has no batch.
        """
        wanted = self._live.want_epochs(epochs)
        while self.epoch < wanted:
            yield from self._live.position.epoch_batches(self._live.set_rng)
            if self._context.thresholds.every_epochs is not None:
                self._rounds.meet_between_epochs()

    def advance(self, **metrics: Any) -> None:
        """Count one optimizer step, with its metrics; save if it is time.

        Call it after the optimizer's step, once per step. The store is not waited for. Parameters and optimizer state
        are copied beside the next forward and backward pass, and the next step of an optimizer waits for that copy;
        everything else is copied before this returns. Any change in place until that step is noticed and costs a version,
        but for these, which torch does not count: through `.data`; of a DTensor (FSDP2), by a `torch._foreach_` function
        or through a local part taken from it; an optimizer's step replayed from a CUDA graph. `resting` first makes them safe.

        Raises:
            FenceLostError: a newer attempt owns the run.
            FailureBudgetSpentError: too many saves failed in a row.
            AttemptInterruptedError: a signal or a time limit ends the attempt; what could be saved in time is saved.
        """
        self._stepped(metrics)
        if self._rounds.due:
            self._rounds.meet()

    def report(self, metrics: dict[str, Any], checkpoint: Any | None = None) -> None:
        """For loops that write their own checkpoint directory: count a step, and store the directory as a version.

        Args:
            metrics: numbers by name.
            checkpoint: a `ray.train.Checkpoint` of a local directory, or a path; None on ranks without files. Ranks
                must not use one file name twice. None on rank 0: no version is made, only the step is counted.

        The directory may be removed when this returns. `restored_directory` gives it back to the next attempt.

        Raises:
            InvalidInputError: the session was opened with a model, whose state it saves itself; or rank 0 handed over
                nothing and this rank did.
        """
        if self._live.parts is not None:
            raise InvalidInputError(
                "This session was opened with a model and saves its state itself: call advance, or open the session "
                "without a model and hand over directories."
            )
        self._stepped(metrics)
        self._rounds.meet_with(checkpoint)

    def resting(self) -> AbstractContextManager[None]:
        """No step is expected inside: evaluation, say. Otherwise a rank without one for long counts as hung.

        A copy that still runs is joined first: inside, and after it until the next `advance`, everything may be changed.
        Not needed for what is shorter than `scaling.hung_after_seconds`, nor between two epochs unless it is far longer.
        """
        self._saver.before_step()
        return self._context.heart.resting()

    def _stepped(self, metrics: dict[str, Any]) -> None:
        self._live.stepped(metrics)
        self._context.heart.stepped(self._live.step, last_of_epoch=self._live.at_last_step)
        self._rounds.stepped()
