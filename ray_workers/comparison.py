"""Versions side by side: hyperparameters that differ, metrics, loss over steps and wall-clock, weights layer by layer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ray_workers.loading import StoredVersion, model_state
from ray_workers.report import RunReport
from ray_workers.report_builder import build_report
from ray_workers.step_clock import StepClock
from ray_workers.store.catalog import VersionCatalog
from ray_workers.store.errors import InvalidInputError, StateMismatchError
from ray_workers.store.strict_json import encode_float

__all__ = [
    "WHOLE",
    "Compared",
    "Comparison",
    "CurvePoint",
    "LayerDistance",
    "compare",
    "layer_distances",
    "whole_distance",
]

_MISSING = "(not set)"

WHOLE = "(all layers)"
"""Stands for a layer's name in the distance of whole models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    step: int
    hours: float | None
    """Since the run's first attempt began, standstill included; between versions by interpolation."""
    loss: float
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One version, with the curve of its run up to it."""

    reference: str
    run: str
    number: int
    step: int
    epoch: int
    rung: str
    committed_at: str
    world_size: int
    metrics: Mapping[str, float]
    config: Mapping[str, Any]
    """Flat: `model.layers`."""
    curve: tuple[CurvePoint, ...]
    resumes: tuple[tuple[int, float | None], ...]
    """Step and hour at which attempts resumed."""
    forked_from: str | None
    report: RunReport


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDistance:
    """One tensor of two models, or all of them: L2 norms of both, and of their difference."""

    name: str
    norm: float
    other_norm: float
    distance: float

    @property
    def relative(self) -> float:
        """The distance as a share of the first one's norm; infinite when that is nought and the distance is not."""
        if self.norm == 0:
            return 0.0 if self.distance == 0 else float("inf")
        return self.distance / self.norm

    @property
    def weight(self) -> float:
        """What to rank by, largest first: `relative`, and above all of them what is not finite, which has gone wrong."""
        finite = all(map(math.isfinite, (self.norm, self.other_norm, self.distance)))
        return self.relative if finite else math.inf

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "norm": encode_float(self.norm),
            "other_norm": encode_float(self.other_norm),
            "distance": encode_float(self.distance),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    versions: tuple[Compared, ...]
    differing: tuple[tuple[str, tuple[str, ...]], ...]
    """Hyperparameters that are not the same everywhere: name, and its value in each version as JSON."""
    metrics: tuple[tuple[str, tuple[float | None, ...]], ...]
    layers: Mapping[str, tuple[LayerDistance, ...]]
    """For every version but the first that has comparable weights: distances from the first."""
    without_layers: Mapping[str, str]
    """Why a version's weights were not compared."""

    @property
    def whole(self) -> dict[str, LayerDistance]:
        """Norms and distance of all compared layers taken as one vector, for every version that has `layers`."""
        return {name: whole_distance(distances) for name, distances in self.layers.items()}

    def to_json(self) -> dict[str, Any]:
        names = [version.reference for version in self.versions]
        return {
            "versions": [
                {
                    "reference": v.reference, "step": v.step, "epoch": v.epoch, "rung": v.rung,
                    "committed_at": v.committed_at, "world_size": v.world_size, "forked_from": v.forked_from,
                    "attempts": len(v.report.attempts), "config": dict(v.config),
                }
                for v in self.versions
            ],
            "differing": {name: dict(zip(names, values, strict=True)) for name, values in self.differing},
            "metrics": {
                name: {n: None if x is None else encode_float(x) for n, x in zip(names, values, strict=True)}
                for name, values in self.metrics
            },
            "whole": {name: distance.to_json() for name, distance in self.whole.items()},
            "layers": {name: [d.to_json() for d in distances] for name, distances in self.layers.items()},
            "without_layers": dict(self.without_layers),
        }  # fmt: skip


def compare(
    chosen: Sequence[StoredVersion],
    *,
    weights: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Put versions of any runs side by side; the first one is what the others are measured against.

    Args:
        chosen: two or more.
        weights: also read all weights, and measure the distance of every layer from the first version's.
        tell: told what is being read.

    Raises:
        InvalidInputError: fewer than two different versions.
        DamageError and its like: weights are damaged.
    """
    if len({stored.reference for stored in chosen}) < max(2, len(chosen)):
        raise InvalidInputError(
            "Name at least two versions, each once, such as: digits@3 digits@best"
        )
    catalogs: dict[str, VersionCatalog] = {}
    versions: list[Compared] = []
    for stored in chosen:
        tell(f"reading the history of {stored.run}")
        catalog = catalogs.setdefault(stored.run, VersionCatalog(stored.store, stored.run))
        # Of the version's own line: it may lie on a branch that the run has left.
        report = build_report(stored.store, stored.run, catalog=catalog, head=stored.version.number)
        versions.append(_compared(stored, report))
    layers: dict[str, tuple[LayerDistance, ...]] = {}
    without: dict[str, str] = {}
    if weights:
        layers, without = _all_distances(chosen, tell)
    return Comparison(
        versions=tuple(versions),
        differing=tuple(_differing(versions)),
        metrics=tuple(_metrics(versions)),
        layers=layers,
        without_layers=without,
    )


def layer_distances(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> tuple[LayerDistance, ...]:
    """Every floating-point tensor that both have under one name and in one shape, in the first one's order."""
    return tuple(
        _distance(name, value, second[name])
        for name, value in first.items()
        if isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and isinstance(second.get(name), torch.Tensor)
        and second[name].shape == value.shape
    )


def whole_distance(layers: Sequence[LayerDistance]) -> LayerDistance:
    """The layers taken as one vector: the L2 norms of both models over them, and of their difference."""
    return LayerDistance(
        name=WHOLE,
        norm=math.hypot(*(layer.norm for layer in layers)),
        other_norm=math.hypot(*(layer.other_norm for layer in layers)),
        distance=math.hypot(*(layer.distance for layer in layers)),
    )


def _distance(name: str, value: torch.Tensor, other: torch.Tensor) -> LayerDistance:
    here, there = value.double(), other.double()
    return LayerDistance(
        name=name,
        norm=float(here.norm()),
        other_norm=float(there.norm()),
        distance=float((here - there).norm()),
    )


def _all_distances(
    chosen: Sequence[StoredVersion], tell: Callable[[str], None]
) -> tuple[dict[str, tuple[LayerDistance, ...]], dict[str, str]]:
    layers: dict[str, tuple[LayerDistance, ...]] = {}
    without: dict[str, str] = {}
    tell(f"reading the weights of {chosen[0].reference}")
    try:
        first = model_state(chosen[0])
    except StateMismatchError as error:
        return {}, {chosen[0].reference: error.message}
    for stored in chosen[1:]:
        tell(f"reading the weights of {stored.reference}")
        try:
            distances = layer_distances(first, model_state(stored))
        except StateMismatchError as error:
            without[stored.reference] = error.message
            continue
        if distances:
            layers[stored.reference] = distances
        else:
            without[stored.reference] = "no layer has the same name and shape"
    return layers, without


def _compared(stored: StoredVersion, report: RunReport) -> Compared:
    manifest, version = stored.manifest, stored.version
    attempt = next((r.attempt for r in report.versions if r.number == version.number), 0)
    clock = StepClock(report)
    points = [
        CurvePoint(step=step, hours=clock.hours(step, doer), loss=loss, attempt=doer)
        for step, loss, doer in report.curve
    ]
    return Compared(
        reference=stored.reference,
        run=stored.run,
        number=version.number,
        step=version.step,
        epoch=manifest.progress.epoch,
        rung=version.rung,
        committed_at=version.at,
        world_size=manifest.world_size,
        metrics=manifest.metrics,
        config=dict(_flat(manifest.config, "")),
        curve=tuple(points),
        resumes=tuple(_resumes(report, clock, attempt)),
        forked_from=report.forked_from,
        report=report,
    )


def _resumes(report: RunReport, clock: StepClock, last: int) -> Iterator[tuple[int, float | None]]:
    """Of the attempts up to `last`, without those of other branches."""
    own = {doer for _, _, doer in report.curve}
    elsewhere = {row.attempt for row in report.versions} - own
    for attempt in report.attempts:
        if attempt.resumed and attempt.number <= last and attempt.number not in elsewhere:
            step = clock.start_step(attempt)
            yield step, clock.hours(step, attempt.number)


def _differing(versions: Sequence[Compared]) -> Iterator[tuple[str, tuple[str, ...]]]:
    names = sorted({name for version in versions for name in version.config})
    for name in names:
        values = tuple(
            json.dumps(v.config[name], sort_keys=True) if name in v.config else _MISSING
            for v in versions
        )
        if len(set(values)) > 1:
            yield name, values


def _metrics(versions: Sequence[Compared]) -> Iterator[tuple[str, tuple[float | None, ...]]]:
    names = sorted(
        {name for version in versions for name in version.metrics}, key=lambda n: (n != "loss", n)
    )
    for name in names:
        yield name, tuple(version.metrics.get(name) for version in versions)


def _flat(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
