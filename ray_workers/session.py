"""`CheckpointSession`: all that a training loop touches.

    with CheckpointSession.open(model=model, optimizer=optimizer, loader=loader) as session:  # restored here
        for batch in session.batches(epochs=3):
            loss = step(model, optimizer, batch)
            session.advance(loss=loss)  # counts the step; saves when the policy says so; never waits for the store

Every rank opens one session and makes the same calls in the same order, as with collectives.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.optim.optimizer import register_optimizer_step_pre_hook

from ray_workers import rng
from ray_workers.context import TrainingContext, current_context
from ray_workers.data_exactness import announce_loader
from ray_workers.data_position import DataPosition
from ray_workers.deciding import Decider
from ray_workers.decisions import Decision, open_channel
from ray_workers.directory import pack_directory, unpack_directory
from ray_workers.drill_notes import DrillEnded
from ray_workers.environment import describe_environment, warn_about_changes
from ray_workers.falling_back import next_point
from ray_workers.loss_probe import PROBE_METRIC, Probe, measure, measure_twice
from ray_workers.messages import ResumePoint
from ray_workers.rank_content import RankContent
from ray_workers.restoring import (
    SHARED,
    ShardCache,
    check_payload,
    rank_prefix,
    read_manifest,
    restore_rank,
)
from ray_workers.saver import Saver
from ray_workers.series import MetricSeries
from ray_workers.startup import StartUp
from ray_workers.state_tree import split
from ray_workers.stopping import stop_error
from ray_workers.store.errors import DamageError, InvalidInputError, ObjectNotFoundError
from ray_workers.store.manifest import Manifest, Progress
from ray_workers.store.manifest_parts import INTERRUPTED
from ray_workers.store.opening import StorageTarget
from ray_workers.training_state import TrainingParts, capture, frozen_paths, restore, steady_paths

__all__ = ["CheckpointSession"]

_FINAL_PATIENCE_S = 900.0


class CheckpointSession:
    """One worker's view of the run while it trains. Use `open`, as a context manager."""

    def __init__(
        self,
        context: TrainingContext,
        parts: TrainingParts | None,
        loader: Any | None,
        probe: Probe | None = None,
    ) -> None:
        self._context = context
        self._parts = parts
        self._probe = probe
        announce_loader(loader, context.thresholds, rank=context.rank)
        self._position = DataPosition(loader)
        self._series = MetricSeries()
        self._channel = open_channel(context.world_size)
        self._saver = Saver(
            context.pipeline,
            rank=context.rank,
            world_size=context.world_size,
            buffers=context.buffers,
            full_every=context.full_every,
        )
        self._rng_state: dict[str, Any] | None = None
        self._epochs_wanted: int | None = None
        self._restored_directory: Path | None = None
        self._probed: tuple[float, ...] = ()
        self.step = 0
        """Optimizer steps done since the run began."""
        self._restored_step = -1
        self._startup = StartUp(context.launched_at)
        self._restore()
        self._books = Decider(
            context,
            self._saver,
            step=self.step,
            epoch=self.epoch,
            committed_step=self._restored_step,
        )
        self._first_step = self.step
        self._next_agreement = self.step + 1
        # For every optimizer of the process: one that was not handed over may hold the same parameters.
        self._step_hook = register_optimizer_step_pre_hook(self._before_step)

    @classmethod
    def open(
        cls,
        *,
        model: Any | None = None,
        optimizer: Any | None = None,
        loader: Any | None = None,
        scheduler: Any | None = None,
        extra: dict[str, Any] | None = None,
        probe: Probe | None = None,
    ) -> Self:
        """Join the run and restore the version that this attempt resumes from, if there is one.

        Args:
            model: a module, plain or wrapped by DDP or FSDP2.
            optimizer: an optimizer, or several in a list or dict.
            loader: what `batches` iterates; exact in mid-epoch if it has `state_dict` (StatefulDataLoader).
            scheduler: a learning-rate scheduler, or several in a list or dict.
            probe: gives the model's loss on a small fixed batch; evaluated at every save, by all ranks together, in
                evaluation mode and without gradients. `Validation.probe` evaluates it again from the stored bytes.
            extra: anything else with `state_dict` and `load_state_dict`, by name (EMA, gradient scaler …).

        Raises:
            InvalidInputError: the loop was not started by Pawl.
            StateMismatchError: the stored state does not fit the model; the sentence names the differences.
            DamageError: the version is not what was written, and no other one can be resumed.
        """
        parts = None
        if model is not None:
            parts = TrainingParts(
                model=model, optimizer=optimizer, scheduler=scheduler, extra=dict(extra or {})
            )
        return cls(current_context(), parts, loader, probe)

    def __enter__(self) -> Self:
        if self._rng_state is not None:
            rng.restore(self._rng_state)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._finish()
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
    def epoch(self) -> int:
        """Epochs completed."""
        return self._position.epoch

    @property
    def storage(self) -> StorageTarget:
        return self._context.storage

    @property
    def restored_directory(self) -> Path | None:
        """The files of the version resumed from, when a loop hands over directories; else None."""
        return self._restored_directory

    def batches(self, *, epochs: int) -> Iterator[Any]:
        """The batches that are left, epoch by epoch, until `epochs` epochs are done since the run began."""
        self._epochs_wanted = epochs
        while self.epoch < epochs:
            yield from self._position.epoch_batches(self._set_rng)
            if self._context.thresholds.every_epochs is not None:
                self._agree()

    def advance(self, **metrics: Any) -> None:
        """Count one optimizer step, with its metrics; save if it is time.

        Call it after the optimizer's step, once per step. The store is not waited for. Parameters and optimizer state
        are copied beside the next forward and backward pass, and the next step of an optimizer waits for that copy;
        everything else is copied before this returns. Until that step nothing may change a parameter through `.data`:
        any other change in place is noticed, and costs a version.

        Raises:
            FenceLostError: a newer attempt owns the run.
            FailureBudgetSpentError: too many saves failed in a row.
            AttemptInterruptedError: a signal or a time limit ends the attempt; what could be saved in time is saved.
        """
        self.step += 1
        self._startup.stepped()
        self._books.stepped()
        self._series.append(self.step, metrics)
        if self.step >= self._next_agreement:
            self._agree()

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
        if self._parts is not None:
            raise InvalidInputError(
                "This session was opened with a model and saves its state itself: call advance, or open the session "
                "without a model and hand over directories."
            )
        self.step += 1
        self._startup.stepped()
        self._books.stepped()
        self._series.append(self.step, metrics)
        wanted = checkpoint is not None
        self._books.hear(self._saver.wait(_FINAL_PATIENCE_S) if wanted else self._saver.collect())
        decision = self._channel.agree(self._books.decision(self.step, save=wanted, last=wanted))
        content = None
        if decision.save:
            self._books.hear(self._saver.wait(_FINAL_PATIENCE_S))
            content = pack_directory(checkpoint, rank=self.rank, metrics=self._series.latest())
        elif wanted and decision.stop is None:
            raise InvalidInputError(
                f"Rank {self.rank} handed over a checkpoint at step {self.step} and rank 0 none: rank 0 must too."
            )
        self._act(decision, content)

    # --- deciding ------------------------------------------------------------------------------------------------

    def _agree(self) -> None:
        """All ranks are here at the same step; rank 0 says what happens."""
        self._books.hear(self._saver.collect())
        books = self._books
        if self.step == books.saved_step:
            books.saved_epoch = self.epoch  # an epoch's end is saved with its last step
        last = self._parts is not None and self.step > books.saved_step
        self._act(self._channel.agree(books.decision(self.step, save=self._due(), last=last)))

    def _due(self) -> bool:
        if self._epochs_wanted == self.epoch + 1 and self._position.at_last_batch():
            return False  # the final save is due at once, and says that the run is finished
        return self._books.due(self.step, self.epoch)

    def _act(self, decision: Decision, content: RankContent | None = None) -> None:
        self._next_agreement = decision.next_step
        if decision.announce is not None and self._context.announcer is not None:
            self._context.announcer.announce(decision.announce, self.step, self._series.latest())
        if decision.save:
            if decision.stop is not None and self._saver.flights >= self._context.buffers:
                self._books.hear(
                    self._saver.wait(decision.grace_s)
                )  # now it is worth waiting for room
            self._saver.stage(content or self._content(), self._progress())
            self._books.staged(self.step, self.epoch)
        if decision.stop is not None:
            self._end(decision)

    def _end(self, decision: Decision) -> None:
        """All ranks leave the loop here; interrupted ones when they know what became of their last saves."""
        if self._context.drill:
            done, metrics = self.step - self._first_step, self._series.latest()
            raise DrillEnded(done, metrics, self._startup.seconds(), self._probed)
        if decision.stop == "interrupted":
            self._books.hear(self._saver.wait(decision.grace_s))
        raise stop_error(
            self._books.stop or decision.stop or "stopped",
            run=self._context.run,
            step=self.step,
            committed_step=self._books.committed_step,
        )

    def _finish(self) -> None:
        """Make the final state a version, and return only when that is known."""
        while True:
            self._books.hear(self._saver.wait(_FINAL_PATIENCE_S))
            if self._saver.in_flight:
                self._books.stop = "stopped"  # a store this slow must not end as a silent success
            wanted = self.step > self._books.committed_step and self._parts is not None
            decision = self._channel.agree(
                self._books.decision(self.step, save=wanted, last=wanted)
            )
            self._act(decision)
            if not decision.save:
                break
        if self._context.announcer is not None:
            self._context.announcer.close()
        self._saver.close()

    # --- state ---------------------------------------------------------------------------------------------------

    def _progress(self) -> Progress:
        wanted = self._epochs_wanted
        return Progress(
            step=self.step,
            epoch=self.epoch,
            finished=wanted is not None and self.epoch >= wanted,
            epochs_wanted=wanted,
        )

    def _content(self) -> RankContent:
        """The live state as it is now; nothing is copied yet."""
        probed = {}
        if self._probe is not None and self._parts is not None:
            probed = {PROBE_METRIC: measure(self._parts.model, self._probe)}
        local = split(
            {"rng": rng.capture(), "data": self._position.state(), "series": self._series.state()},
            prefix=rank_prefix(self.rank),
        )
        shared = split(capture(self._parts) if self._parts else {}, prefix=SHARED)
        lead = self.rank == 0
        return RankContent(
            tensors={**shared.tensors, **local.tensors},
            steady=steady_paths(self._parts, shared.tensors) if self._parts else frozenset(),
            frozen=frozen_paths(self._parts, shared.tensors) if self._parts else frozenset(),
            rank_plain=local.plain,
            plain=shared.plain if lead else None,
            metrics={**self._series.latest(), **probed} if lead else {},
            curve=self._series.curves() if lead else {},
            environment=self._environment() if lead else {},
            timings={**self._startup.seconds(), **self._books.pace} if lead else {},
        )

    def _environment(self) -> dict[str, str]:
        cause = self._books.interrupted_by
        interrupted = {} if cause is None else {INTERRUPTED: cause}
        return {**describe_environment(), **self._context.started_as, **interrupted}

    def _restore(self) -> None:
        """Every rank restores the same version, or all of them leave it together."""
        point = self._context.resume
        while point is not None:
            problem = None
            try:
                self._restore_from(point)
            except (DamageError, ObjectNotFoundError) as error:
                problem = error.message
            told = self._channel.any_failed(problem)
            if told is None:
                self._startup.restored(point.verify_s)
                if self._context.drill and self._probe is not None and self._parts is not None:
                    self._probed = measure_twice(self._parts.model, self._probe)
                return
            if self._context.drill:
                raise DamageError(told)  # a drill quarantines nothing and chooses nothing itself
            point = next_point(self._context, self._channel, point, told)

    def _restore_from(self, point: ResumePoint) -> None:
        store = self._context.storage.open().store
        manifest = read_manifest(store, point)
        cache = ShardCache(store, self._context.staging)
        check_payload(manifest, point, has_model=self._parts is not None)
        if self._parts is None:
            self._restored_directory = unpack_directory(manifest, cache.read)
        else:
            self._restore_state(self._parts, manifest, cache)
        cache.tell(manifest)
        self.step = manifest.progress.step
        self._position.epoch = manifest.progress.epoch
        self._restored_step = -1 if point.foreign else self.step
        if not point.foreign:
            self._saver.resumed(manifest)
        if self.rank == 0:
            warn_about_changes(manifest.environment)

    def _restore_state(self, parts: TrainingParts, manifest: Manifest, cache: ShardCache) -> None:
        local = restore_rank(
            self.rank, self.world_size, manifest, cache, rule=self._context.on_changed_workers
        )
        restore(parts, manifest, cache.read)
        self._position.load(local["data"])
        self._series.load(local["series"])
        self._rng_state = local["rng"]

    def _set_rng(self) -> None:
        if self._rng_state is None:
            raise InvalidInputError("The version resumed from in mid-epoch holds no random state.")
        rng.restore(self._rng_state)
