"""The lineage as a picture: a lane for each attempt, its versions in a chain, and the edge along which it resumed.

The horizontal axis is the step, as in the loss chart above it, so work that was done again lies below its first try.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ray_workers.report import RunReport, VersionRow
from tasks.charts import rung_items
from tasks.lineage_path import Lane, lanes, thin_versions
from tasks.svg import (
    CHAR,
    INK,
    QUIET,
    LegendItem,
    Scale,
    attempt_colour,
    document,
    legend,
    mark,
    num,
    safe,
    short_count,
    ticks,
)

__all__ = ["lineage_graph"]

_LEFT, _RIGHT, _TOP = 128.0, 718.0, 60.0
_MAX_LANES = 60
_MAX_DOTS = 500
_ROOMY_LANES = 12


def lineage_graph(report: RunReport) -> str | None:
    """The picture as SVG, or None before the first attempt. Of very many attempts the newest are drawn."""
    every_lane = lanes(report)
    if not every_lane:
        return None
    shown = every_lane[-_MAX_LANES:]
    versions = [version for lane in shown for version in lane.versions]
    roomy = len(shown) <= _ROOMY_LANES
    high = max(*(lane.reached for lane in shown), report.progress.step, 1)
    low = min(lane.start for lane in shown)
    graph = _Graph(
        lanes=shown,
        left_out=len(every_lane) - len(shown),
        x=Scale(low=0 if low < 0.2 * high else low, high=high, start=_LEFT + 8, end=_RIGHT),
        spacing=62.0 if roomy else 24.0,
        radius=max(3.0, min(8.0 if roomy else 5.0, 300 / max(len(versions), 1))),
        newest_sound=report.newest_sound,
        drawn=frozenset(
            version.number for version in thin_versions(versions, _MAX_DOTS, report.newest_sound)
        ),
    )
    foot, bottom = legend(graph.legend_items(versions), left=14, top=graph.floor + 82)
    return document(
        (*graph.axis(), *graph.edges(), *graph.chains(), *graph.dots(), *graph.names(), foot),
        height=bottom - 6,
        title=f"Lineage of {report.run}",
        description=f"{len(versions)} versions in {len(shown)} attempts",
        radius=graph.radius,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    lanes: tuple[Lane, ...]
    left_out: int
    x: Scale
    spacing: float
    radius: float
    newest_sound: VersionRow | None
    drawn: frozenset[int]

    @property
    def floor(self) -> float:
        return _TOP + len(self.lanes) * self.spacing

    @property
    def roomy(self) -> bool:
        return len(self.lanes) <= _ROOMY_LANES

    def _y(self, index: int) -> float:
        return _TOP + (index + 0.6) * self.spacing

    def axis(self) -> Iterator[str]:
        more = f" (the {self.left_out} before them are left out)" if self.left_out else ""
        yield (
            '<text x="14" y="25"><tspan class="b">attempts</tspan>'
            f'<tspan class="q"> and their versions{more}</tspan></text>'
        )
        for step in ticks(self.x.low, self.x.high, 6, whole=True):
            at = num(self.x(step))
            yield f'<path d="M{at} {num(_TOP - 14)}V{num(self.floor)}" stroke="#ececec"/>'
            yield f'<text class="q m" x="{at}" y="{num(self.floor + 26)}">{short_count(step)}</text>'
        yield f'<path d="M{num(_LEFT)} {num(self.floor)}H{num(_RIGHT)}" stroke="{QUIET}"/>'
        middle = num((_LEFT + _RIGHT) / 2)
        yield f'<text class="q m" x="{middle}" y="{num(self.floor + 52)}">step</text>'

    def edges(self) -> Iterator[str]:
        """From the version resumed to the lane that goes on from it; past other lanes in a slight bow."""
        row = {lane.attempt.number: index for index, lane in enumerate(self.lanes)}
        for index, lane in enumerate(self.lanes):
            if lane.parent is None:
                continue
            above = row.get(lane.parent.attempt)
            x, y = self.x(lane.start), self._y(index)
            top = _TOP - 14 if above is None else self._y(above)
            if index - (-1 if above is None else above) == 1:
                path = f"M{num(x)} {num(top)}V{num(y)}"
            else:
                bow = num(x - 22)
                path = f"M{num(x)} {num(top)}C{bow} {num(top + 20)} {bow} {num(y - 20)} {num(x)} {num(y)}"
            colour = attempt_colour(lane.attempt.number)
            yield f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>'

    def chains(self) -> Iterator[str]:
        """Solid as far as versions hold the work, faint where it no longer counts, dashed where nothing holds it."""
        for index, lane in enumerate(self.lanes):
            y, colour = num(self._y(index)), attempt_colour(lane.attempt.number)
            last = max([lane.start, *(version.step for version in lane.versions)])
            counts = max(lane.start, min(last, lane.counts_to))
            for begin, end, style in (
                (lane.start, counts, ""),
                (counts, last, ' opacity=".4"'),
                (last, lane.reached, ' stroke-dasharray="2 5"'),
            ):
                if end > begin:
                    yield (
                        f'<path d="M{num(self.x(begin))} {y}H{num(self.x(end))}" stroke="{colour}" '
                        f'stroke-width="3.5"{style}/>'
                    )
            yield f'<path d="M{num(self.x(lane.start))} {y}m0-6v12" stroke="{colour}" stroke-width="2.5"/>'

    def dots(self) -> Iterator[str]:
        for index, lane in enumerate(self.lanes):
            y, free, every = self._y(index), 0.0, self._numbered(lane)
            for version in lane.versions:
                if version.number not in self.drawn:
                    continue
                x = self.x(version.step)
                if version is self.newest_sound:
                    yield f'<use href="#o" x="{num(x)}" y="{num(y)}"/>'
                yield mark(version.rung, x, y)
                width = len(str(version.number)) * CHAR
                if version.number % every == 0 and x - width / 2 >= free:
                    free = x + width / 2 + 8
                    yield f'<text class="m" x="{num(x)}" y="{num(y - 20)}">{version.number}</text>'

    def _numbered(self, lane: Lane) -> int:
        """Every how many versions a number fits above the lane; above the highest number when none does."""
        if not self.roomy or not lane.versions:
            return 10**9
        gap = (self.x(lane.versions[-1].step) - self.x(lane.start)) / len(lane.versions)
        wanted = len(str(lane.versions[-1].number)) * CHAR + 8
        return next((k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500) if k * gap >= wanted), 1000)

    def names(self) -> Iterator[str]:
        """The attempt's number and outcome in the gutter, and where a fork comes from."""
        for index, lane in enumerate(self.lanes):
            y, number = self._y(index), lane.attempt.number
            outcome = (lane.attempt.outcome or "running").replace("_", " ")
            second = f'<tspan class="q w" x="14" dy="1.25em">{safe(outcome, 11)}</tspan>'
            up = "-.28em" if self.roomy else ".35em"
            yield (
                f'<text class="b w" x="14" y="{num(y)}" dy="{up}">attempt {number}'
                f"{second if self.roomy else ''}</text>"
            )
            if self.roomy or index % 2 == len(self.lanes) % 2:
                yield f'<text class="b n" x="14" y="{num(y)}" dy=".35em">{number}</text>'
            if lane.origin is not None:
                x = self.x(lane.start)
                yield (
                    f'<path d="M{num(x)} {num(y)}m-8-8h16v16h-16z" fill="#fff" stroke="{INK}" '
                    f'stroke-width="2"/><text x="{num(x + 14)}" y="{num(y)}" dy="1.6em" '
                    f'class="q">from {safe(lane.origin, 34)}</text>'
                )

    def legend_items(self, versions: list[VersionRow]) -> list[LegendItem]:
        items = rung_items(versions)
        if self.newest_sound is not None:
            items.append(LegendItem(symbol='<use href="#o"/>', label="newest sound"))
        if any(lane.origin is not None for lane in self.lanes):
            square = f'<path d="M-8-8h16v16h-16z" fill="#fff" stroke="{INK}" stroke-width="2"/>'
            items.append(LegendItem(symbol=square, label="version of another run"))
        if any(
            lane.reached > max([lane.start, *(v.step for v in lane.versions)])
            for lane in self.lanes
        ):
            dashes = (
                f'<path d="M-11 0H11" stroke="{attempt_colour(1)}" stroke-width="3.5" '
                'stroke-dasharray="2 5"/>'
            )
            items.append(LegendItem(symbol=dashes, label="not in any version"))
        return items
