"""The outcome of the interval benchmark as tables and a picture for docs/interval.md."""

from __future__ import annotations

import html
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmarks.page import table

if TYPE_CHECKING:
    from benchmarks.interval_run import Outcome

__all__ = ["aims_text", "cases_table", "plot", "rules_table"]

_AIMS = (
    ("from a cold start, over the first ten failures: at most 5 % behind the best fixed interval", 0.05, True),
    ("after ten failures: at most 2 % behind it", 0.02, False),
    ("after ten failures: never worse than it by more than 1 %", 0.01, False),
)  # fmt: skip


def aims_text(outcomes: Sequence[Outcome]) -> str:
    """Each aim with its verdict; where it is missed, where."""
    lines = []
    for text, limit, cold in _AIMS:
        regrets = [(outcome.regret("Pawl", cold=cold), outcome) for outcome in outcomes]
        worst, where = max(regrets, key=lambda item: item[0])
        missed = [outcome for regret, outcome in regrets if regret > limit]
        verdict = (
            "met in every case"
            if not missed
            else f"missed in {len(missed)} of {len(regrets)} cases"
        )
        lines.append(
            f"- {text}: **{verdict}**; mean {_percent(statistics.fmean(r for r, _ in regrets))}, worst {_percent(worst)} "
            f"({where.site}, {where.process}, {where.profile})."
        )
    return "\n".join(lines)


def rules_table(outcomes: Sequence[Outcome]) -> str:
    """Goodput lost against the best fixed interval, by rule, over all cases."""
    rows = [["rule", "first ten: mean", "worst", "after ten: mean", "worst"]]
    for rule in outcomes[0].later:
        if rule == "best fixed":
            continue
        cells = [rule]
        for cold in (True, False):
            regrets = [outcome.regret(rule, cold=cold) for outcome in outcomes]
            cells += [_percent(statistics.fmean(regrets)), _percent(max(regrets))]
        rows.append(cells)
    return table(rows)


def cases_table(outcomes: Sequence[Outcome]) -> str:
    """Every case: the share of the time whose work was kept."""
    rows = [
        [
            "workers",
            "failures",
            "saves",
            "best fixed",
            "kept at best",
            "Pawl, first ten",
            "Pawl, after ten",
        ]
    ]
    rows += [
        [
            outcome.site,
            outcome.process,
            outcome.profile,
            f"{outcome.best_s:.0f} s",
            _percent(outcome.later["best fixed"], 1),
            f"-{_percent(outcome.regret('Pawl', cold=True))}",
            f"-{_percent(outcome.regret('Pawl', cold=False))}",
        ]
        for outcome in outcomes
    ]
    return table(rows).replace("--", "+")


def plot(outcomes: Sequence[Outcome]) -> str:
    """Regret of each rule after ten failures: a dot for each case, a bar for the mean."""
    rules = [rule for rule in outcomes[0].later if rule != "best fixed"]
    left, width, row = 190, 560, 30
    most = 0.3
    height = 70 + row * len(rules)

    def x(regret: float) -> float:
        return left + width * min(max(regret, 0.0), most) / most

    parts = [
        f'<text x="{left}" y="20" font-weight="bold">Share of the time lost against the best fixed interval</text>'
    ]
    parts += [
        f'<line x1="{x(tick)}" x2="{x(tick)}" y1="30" y2="{height - 30}" stroke="#ddd"/>'
        f'<text x="{x(tick)}" y="{height - 12}" text-anchor="middle">{100 * tick:.0f} %{"+" if tick == most else ""}</text>'
        for tick in (0.0, 0.05, 0.1, 0.2, most)
    ]
    for number, rule in enumerate(rules):
        parts.append(
            _line(rule, 48 + row * number, [o.regret(rule, cold=False) for o in outcomes], x)
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 40}" height="{height}" font-family="sans-serif" '
        'font-size="13" role="img"><title>Regret by rule</title><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _line(rule: str, y: int, regrets: Sequence[float], x: Callable[[float], float]) -> str:
    colour = "#1f6f54" if rule == "Pawl" else "#8a8f98"
    mean = x(statistics.fmean(regrets))
    dots = "".join(
        f'<circle cx="{x(regret):.1f}" cy="{y}" r="3.5" fill="{colour}" fill-opacity="0.35"/>'
        for regret in regrets
    )
    return (
        f'<text x="180" y="{y + 4}" text-anchor="end">{html.escape(rule)}</text>{dots}'
        f'<line x1="{mean:.1f}" x2="{mean:.1f}" y1="{y - 9}" y2="{y + 9}" stroke="{colour}" stroke-width="3"/>'
    )


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"
