"""How far one version may be trusted: ordered checks, each a verdict with its evidence (FORMAT.md §7).

*verified*: every byte is read back and every digest holds. *sound*: the shards hold what the manifest says, every
floating-point value is finite, and the parameters did not jump against the parent. It reads the store and nothing else,
so it runs anywhere, outside the training processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ray_workers.store.bodies import Verdict
from ray_workers.store.errors import DamageError, VersionGoneError
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import Manifest
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_state import VersionState
from ray_workers.store.shards import ShardEntry, data_start, parse_header, read_shard
from ray_workers.store.versions import UNREADABLE, CheckResult, verify_bytes
from ray_workers.tensor_types import dtype_named

__all__ = [
    "CheckResult",
    "SoundnessPolicy",
    "record_verdicts",
    "validate",
]

_PARAMETERS = "shared/model/"


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundnessPolicy:
    max_norm_ratio: float = 10.0

    def jump(self, norm: float, parent: float | None) -> str | None:
        """Why the step from the parent's parameter norm to this one is not credible; None if it is."""
        if parent is None or parent <= 0 or norm <= 0:
            return None
        ratio = max(norm / parent, parent / norm)
        if ratio <= self.max_norm_ratio:
            return None
        return (
            f"the L2 norm of the parameters went from {parent:.6g} to {norm:.6g}, a factor of {ratio:.3g}; "
            f"{self.max_norm_ratio:g} is allowed"
        )


def validate(
    store: ObjectStore,
    run: str,
    version: VersionState,
    *,
    parent_norm: float | None,
    policy: SoundnessPolicy,
) -> list[CheckResult]:
    """Run the checks in order; the first that fails is the last in the list.

    Args:
        store: where the run lives.
        run: the run's name.
        version: what to check.
        parent_norm: L2 norm of the parent's parameters, if known.
        policy: the bounds of *sound*.
    """
    verified, manifest = verify_bytes(store, run, version)
    if manifest is None:
        return [verified]
    return [verified, _check_sound(store, manifest, parent_norm, policy)]


def _check_sound(
    store: ObjectStore, manifest: Manifest, parent_norm: float | None, policy: SoundnessPolicy
) -> CheckResult:
    started = time.monotonic()
    squares, counted = 0.0, 0
    parameters = _parameter_names(manifest)
    try:
        for shard, entry in enumerate(manifest.shards):
            data = read_shard(store, entry)
            problem = _structure_problem(manifest, shard, entry, data)
            if problem is not None:
                return CheckResult(check="sound", passed=False, reason=problem)
            for name, tensor in _tensors(entry, data):
                if not _all_finite(tensor):
                    return CheckResult(
                        check="sound", passed=False, reason=_not_finite(name, tensor)
                    )
                if (shard, name) in parameters:
                    squares += _sum_of_squares(tensor)
                counted += 1
    except DamageError as error:
        return CheckResult(check="bytes", passed=False, reason=error.message)
    norm = math.sqrt(squares)
    evidence = {
        "parameter_norm": norm,
        "tensors": counted,
        "seconds": round(time.monotonic() - started, 3),
    }
    reason = policy.jump(norm, parent_norm)
    return CheckResult(check="sound", passed=reason is None, reason=reason, evidence=evidence)


def _parameter_names(manifest: Manifest) -> set[tuple[int, str]]:
    """Integers among a model's tensors are counters, such as BatchNorm's: they grow for ever, and are no jump."""
    return {
        (chunk.shard, chunk.name)
        for path, layout in manifest.tensors.items()
        if path.startswith(_PARAMETERS) and _has_fractions(dtype_named(layout.dtype))
        for chunk in layout.chunks
    }


def _has_fractions(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _sum_of_squares(tensor: torch.Tensor) -> float:
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return float(real.double().square().sum())


def _structure_problem(
    manifest: Manifest, shard: int, entry: ShardEntry, data: bytes | memoryview
) -> str | None:
    """The first disagreement between a shard's own table and the manifest; None when they agree."""
    table = {t.name: (t.dtype, t.shape) for t in parse_header(data, key=entry.key)}
    wanted = {
        chunk.name: (layout.dtype, chunk.shape)
        for layout in manifest.tensors.values()
        for chunk in layout.chunks
        if chunk.shard == shard
    } | {f.name: ("U8", (f.bytes,)) for f in manifest.files if f.shard == shard}
    for name in sorted(wanted.keys() | table.keys()):
        if wanted.get(name) != table.get(name):
            return f"{entry.key} holds {table.get(name)} under {name!r} where the manifest says {wanted.get(name)}"
    return None


def _tensors(entry: ShardEntry, data: bytes | memoryview) -> Iterator[tuple[str, torch.Tensor]]:
    view = bytearray(data)  # torch wants writable memory; the copy is dropped with the shard
    start = data_start(data, key=entry.key)
    for item in parse_header(data, key=entry.key):
        if item.nbytes == 0:
            continue
        dtype = dtype_named(item.dtype)
        begin = start + item.offset
        raw = torch.frombuffer(view, dtype=torch.uint8, count=item.nbytes, offset=begin)
        yield item.name, (raw if begin % dtype.itemsize == 0 else raw.clone()).view(dtype)


def _all_finite(tensor: torch.Tensor) -> bool:
    if not _has_fractions(tensor.dtype):
        return True
    narrow = tensor.dtype.itemsize == 1  # torch compares no 8-bit floats
    return bool(torch.isfinite(tensor.float() if narrow else tensor).all())


def _not_finite(name: str, tensor: torch.Tensor) -> str:
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor
    bad = int((~torch.isfinite(wide)).sum())
    return f"{name} holds {bad} values that are NaN or infinite, of {tensor.numel()}"


def record_verdicts(
    log: RunLog, version: VersionState, results: list[CheckResult], *, checker: str
) -> None:
    """Append each result as a Verdict, unless the version was condemned meanwhile.

    Raises:
        VersionGoneError: it was condemned: a missing object is no damage then, and no verdict is written.
    """
    log.refresh()
    for result in results:
        present = log.state.find(version.name)
        if present is None or not present.readable:
            raise VersionGoneError(
                f"Version {version.number} of run {log.state.run!r} is "
                f"{'unknown' if present is None else present.status}; choose another.",
                number=version.number,
            )
        repeated = result.passed and result.check in present.passed and result.check != "sound"
        if repeated or result.check == UNREADABLE:
            continue
        body = Verdict(
            versions=(version.name,),
            check=result.check,
            passed=result.passed,
            reason=result.reason and result.reason[:2000],
            evidence=dict(result.evidence),
            checker=checker,
        )
        log.append(lambda _, body=body: body)  # type: ignore[misc]
