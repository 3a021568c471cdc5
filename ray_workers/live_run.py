"""Where one rank's training stands: its step, its place in the data, its parts, what it started from."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_workers import rng
from ray_workers.coming_back import Restored
from ray_workers.context import TrainingContext
from ray_workers.data_exactness import look_at_loader
from ray_workers.data_position import DataPosition
from ray_workers.live_content import LeadNotes, OwnState, live_content
from ray_workers.loss_probe import Probe, measure_twice
from ray_workers.own_objects import restore_own
from ray_workers.rank_content import RankContent
from ray_workers.series import MetricSeries
from ray_workers.startup import StartUp
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.manifest import Progress
from ray_workers.training_state import Stateful, TrainingParts

__all__ = ["LiveRun"]


class LiveRun:
    """Args as of the session."""

    def __init__(
        self,
        context: TrainingContext,
        parts: TrainingParts | None,
        loader: Any | None,
        probe: Probe | None,
        own: Mapping[str, Stateful],
    ) -> None:
        self._context = context
        self._own = own
        self._probe = probe
        self._rng_state: dict[str, Any] | None = None
        self._startup = StartUp(context.launched_at)
        self.parts = parts
        self.position = DataPosition(loader)
        finding = look_at_loader(loader)
        self.has_places = finding is None or finding.level != "lost"
        """A version saved in mid-epoch can go on with the same samples."""
        self._batches_a_step = 1
        self._taken_by_steps = 0
        self.series = MetricSeries()
        self.epochs_wanted: int | None = None
        self.step = 0
        """Optimizer steps done since the run began."""
        self.first_step = 0
        """Where this attempt began."""
        self.began_finished = False
        """What it came back to was the end of its run."""
        self.committed_step = -1
        """The step that it came back to; -1: this run has no version of its own yet."""
        self.directory: Path | None = None
        self.probed: tuple[float, ...] = ()
        """In a drill: what the probe gave on the restored model."""

    @property
    def epoch(self) -> int:
        return self.position.epoch

    def restored(self, back: Restored) -> None:
        """Stand where the version stood; `parts` hold its state already."""
        self._startup.restored(back.point.verify_s)
        self.step = self.first_step = back.progress.step
        self.began_finished = back.progress.finished
        self.position.epoch = back.progress.epoch
        self.directory = back.directory
        if back.own is not None:
            self.position.load(back.own["data"])
            self.series.load(back.own["series"])
            self._rng_state = back.own["rng"]
            restore_own(None if self.parts is None else self.parts.model, self._own, back.own)
        if not back.point.foreign:
            self.committed_step = self.step
        if self._context.drill and self._probe is not None and self.parts is not None:
            self.probed = measure_twice(self.parts.model, self._probe)

    def want_epochs(self, epochs: int) -> int:
        """Train until so many are done; returned as a plain int.

        Raises:
            InvalidInputError: it is no whole number. Said now, for every save would fail of it.
        """
        try:
            wanted = operator.index(epochs)
        except TypeError:
            wanted = -1
        if wanted < 0:
            raise InvalidInputError(
                f"session.batches was asked for {epochs!r} epochs: give a whole number, 0 or more. To train without an end "
                "that is known, give a large one, and stop the run or set saving.time_limit_seconds."
            )
        self.epochs_wanted = wanted
        return wanted

    def stepped(self, metrics: dict[str, Any]) -> None:
        """An optimizer step ended."""
        self.step += 1
        self._batches_a_step = max(1, self.batches_since_step)
        self._taken_by_steps = self.position.taken
        self._startup.stepped()
        self.series.append(self.step, metrics)

    @property
    def start_seconds(self) -> dict[str, float]:
        """How long this attempt's start took, by phase."""
        return self._startup.seconds()

    @property
    def batches_since_step(self) -> int:
        """Batches whose gradients, if they were taken for a later step, are in no parameter yet."""
        return self.position.taken - self._taken_by_steps

    @property
    def at_last_step(self) -> bool:
        """Too few batches of the epoch are left for a step like the last one, as far as the loader knows."""
        return self.position.at_last_batch(self._batches_a_step)

    @property
    def at_end(self) -> bool:
        """The step done last is the last one that is wanted, as far as the loader knows."""
        return self.epochs_wanted == self.epoch + 1 and self.at_last_step

    @property
    def at_place(self) -> bool:
        """A version made now can go on with the same samples."""
        return self.has_places or not self.position.inside

    @property
    def progress(self) -> Progress:
        wanted = self.epochs_wanted
        return Progress(
            step=self.step,
            epoch=self.epoch,
            finished=wanted is not None and self.epoch >= wanted,
            epochs_wanted=wanted,
        )

    def content(self, *, pace: dict[str, float], interrupted_by: str | None) -> RankContent:
        """What this rank contributes to a version, as it is now; nothing is copied yet.

        Args:
            pace: what the interval between saves is chosen from; seconds.
            interrupted_by: why this is the attempt's last version, when something ends it.
        """
        own = OwnState(
            rank=self._context.rank,
            rng=rng.capture(),
            position=self.position.state(),
            series=self.series,
            objects=self._own,
        )
        if self._context.rank != 0:
            return live_content(own, self.parts, self._probe, lead=None)
        lead = LeadNotes(
            environment=self._context.started_as,
            timings={**self.start_seconds, **pace},
            interrupted_by=interrupted_by,
        )
        return live_content(own, self.parts, self._probe, lead=lead)

    def restore_rng(self) -> None:
        """Set the random state that came back, if one did."""
        if self._rng_state is not None:
            rng.restore(self._rng_state)

    def set_rng(self) -> None:
        """As `restore_rng`, in the middle of an epoch, where there must be one."""
        if self._rng_state is None:
            raise InvalidInputError("The version resumed from in mid-epoch holds no random state.")
        rng.restore(self._rng_state)
