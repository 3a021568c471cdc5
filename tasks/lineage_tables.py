"""The tables of the lineage page: versions, attempts, rejected versions, hyperparameters. Long ones end with a count."""

from __future__ import annotations

from collections.abc import Mapping

from ray_workers.report import AttemptRow, RunReport, VersionRow
from tasks.markdown_text import (
    DASH,
    bytes_text,
    code,
    count,
    duration,
    flat_config,
    moment,
    plain,
    real,
    seconds_between,
    short_reason,
    table,
)

__all__ = ["attempts_table", "config_table", "reference", "rejected_list", "versions_table"]

_MAX_VERSIONS = 40
_MAX_ATTEMPTS = 25
_MAX_REASONS = 12
_MAX_REJECTED = 40
_MAX_SETTINGS = 80
_MAX_CHANGES = 3
_MAX_NUMBERS = 8
_HYPERPARAMETERS = "Hyper\N{SOFT HYPHEN}parameters"
"""One of the pages gives the table few pixels: let the word break."""


def versions_table(report: RunReport) -> str:
    """Newest first; hyperparameters only where they differ from the version before."""
    newest = report.versions[-_MAX_VERSIONS:]
    text = table(
        ("#", "Step", "Epoch", "Loss", "Size", "Rung", "Digest", "Attempt", _HYPERPARAMETERS),
        (
            _version_cells(*row)
            for row in reversed(list(zip(newest, _changes(report), strict=True)))
        ),
        right="01234",
    )
    return text + _left_out(
        len(report.versions) - len(newest), "older versions", f"pawl versions {report.run}"
    )


def _version_cells(version: VersionRow, changes: str) -> tuple[str, ...]:
    tags = "".join(f" {code(tag, 30)}" for tag in version.tags[:4])
    rung = f"**{version.rung}**" if version.rung == "quarantined" else plain(version.rung, 20)
    status = "" if version.status == "live" else f", {plain(version.status, 20)}"
    if version.interrupted:
        status += f", saved at {plain(version.interrupted, 30)}"
    return (
        f"**{version.number}**",
        count(version.step),
        str(version.epoch),
        real(version.metrics.get("loss")),
        bytes_text(version.bytes),
        rung + status + tags,
        code(version.digest.rpartition(":")[2][:8]),
        str(version.attempt),
        changes,
    )


def _changes(report: RunReport) -> list[str]:
    """A cell for each of the newest versions; one whose manifest cannot be read is skipped by the comparison."""
    first = max(len(report.versions) - _MAX_VERSIONS, 0)
    before = next((v for v in reversed(report.versions[:first]) if _is_known(v)), None)
    listed = _newest_known(report)
    cells = []
    for version in report.versions[first:]:
        if not _is_known(version):
            cells.append("unknown")
            continue
        cells.append(_differences(before, version) if before else _first(version, listed))
        before = version
    return cells


def _differences(earlier: VersionRow, later: VersionRow) -> str:
    old, new = _settings(earlier), _settings(later)
    return _some(
        [
            f"{plain(name, 40)} {plain(old.get(name, 'unset'), 20)} → {plain(new.get(name, 'unset'), 20)}"
            for name in {**old, **new}
            if old.get(name) != new.get(name)
        ]
    )


def _first(version: VersionRow, listed: VersionRow | None) -> str:
    """The first version has none before it: what differs from the full list, which is the newest version's."""
    mine, full = _settings(version), _settings(listed or version)
    differing = [name for name in {**full, **mine} if mine.get(name) != full.get(name)]
    told = [f"{plain(name, 40)} {plain(mine.get(name, 'unset'), 20)}" for name in differing]
    return _some(told) or "as listed below"


def _is_known(version: VersionRow) -> bool:
    return version.world_size > 0


def _newest_known(report: RunReport) -> VersionRow | None:
    return next((version for version in reversed(report.versions) if _is_known(version)), None)


def _some(told: list[str]) -> str:
    more = [f"and {len(told) - _MAX_CHANGES} more"] if len(told) > _MAX_CHANGES else []
    return ", ".join([*told[:_MAX_CHANGES], *more])


def _settings(version: VersionRow) -> Mapping[str, str]:
    return {**flat_config(version.config), "workers": str(version.world_size)}


def attempts_table(report: RunReport) -> str:
    """Newest first, with the reasons of the newest ends below, where they may be as long as they are."""
    rows = report.attempts[-_MAX_ATTEMPTS:]
    text = table(
        ("#", "Started", "Lasted", "Ended", "Resumed from", "Steps redone", "Time lost", "Host"),
        (_attempt_cells(row, report.generated_at) for row in reversed(rows)),
        right="056",
    )
    reasons = [
        f"- Attempt {row.number} {_ended(row)}: {plain(short_reason(row.reason), 240)}"
        for row in reversed(rows[-_MAX_REASONS:])
        if row.reason
    ]
    text += _left_out(len(report.attempts) - len(rows), "earlier attempts", None)
    return "\n\n".join([text, *(["\n".join(reasons)] if reasons else [])])


def _ended(row: AttemptRow) -> str:
    return "running" if row.outcome is None else plain(row.outcome.replace("_", " "), 30)


def _attempt_cells(row: AttemptRow, now: str) -> tuple[str, ...]:
    return (
        f"**{row.number}**",
        moment(row.started_at),
        duration(seconds_between(row.started_at, row.ended_at or (None if row.outcome else now))),
        _ended(row),
        _start(row),
        DASH if row.steps_lost is None else count(row.steps_lost),
        duration(row.seconds_lost),
        plain(row.host, 24),
    )


def _start(row: AttemptRow) -> str:
    if row.resumed_from is None:
        return DASH if row.undecided else "went on" if row.restarted else "nothing"
    version = plain(row.resumed_from, 60)
    return f"went on after {version}" if row.restarted else version


def rejected_list(report: RunReport) -> str | None:
    """Every version with something against it, and every candidate passed over, newest first, with the reason."""
    reasons: dict[str, str] = {}
    by: dict[str, list[int]] = {}
    for attempt in reversed(report.attempts):
        for name, reason in attempt.passed_over:
            reasons[name] = reason.removeprefix("quarantined: ")
            by.setdefault(name, []).append(attempt.number)
    for version in report.versions:
        if version.reason:
            reasons.setdefault(str(version.number), version.reason)
    if not reasons:
        return None
    names = sorted(reasons, key=lambda name: (name.isdecimal(), len(name), name), reverse=True)
    lines = [
        f"- **{reference(name)}**{_passed_over(by.get(name, []))}: {plain(short_reason(reasons[name]), 240)}"
        for name in names[:_MAX_REJECTED]
    ]
    return "\n".join(lines) + _left_out(
        len(names) - _MAX_REJECTED, "more", f"pawl versions {report.run}"
    )


def _passed_over(attempts: list[int]) -> str:
    if not attempts:
        return ""
    shown = ", ".join(map(str, sorted(attempts)[-_MAX_NUMBERS:]))
    more = "…, " if len(attempts) > _MAX_NUMBERS else ""
    return f", passed over by attempt{'' if len(attempts) == 1 else 's'} {more}{shown}"


def reference(name: str) -> str:
    """`version 3`, or `other@3` when it belongs to another run."""
    return plain(name, 80) if "@" in name else f"version {plain(name, 20)}"


def config_table(report: RunReport) -> str | None:
    """All hyperparameters of the newest version whose manifest can be read."""
    version = _newest_known(report)
    if version is None:
        return None
    settings = list(_settings(version).items())
    text = table(
        ("Hyperparameter", "Value"),
        ((plain(name, 80), code(value)) for name, value in settings[:_MAX_SETTINGS]),
    )
    command = f"pawl show {report.run}@{version.number}"
    return text + _left_out(len(settings) - _MAX_SETTINGS, "more", command)


def _left_out(number: int, what: str, command: str | None) -> str:
    if number <= 0:
        return ""
    where = f"; {code(command)} lists them" if command else ""
    return f"\n\n{count(number)} {what} not shown here{where}."
