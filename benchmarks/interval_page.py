"""The outcome of the interval benchmark as tables and a picture for docs/interval.md."""

from __future__ import annotations

import html
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.interval_outcome import BEST, BEST_OF_LIFE, CLAIRVOYANT, FORESEEN, Outcome
from benchmarks.page import table

__all__ = ["aims_text", "cases_table", "plot", "rules_table"]

_SEERS = (BEST, BEST_OF_LIFE, CLAIRVOYANT, FORESEEN)
"""Rules that know what only the end of a life tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Aim:
    text: str
    limit: float
    cold: bool
    against: str
    by_life: bool = False
    """Each life by itself, not the mean of a case's lives."""

    def regrets(self, outcome: Outcome) -> Sequence[float]:
        if self.by_life:
            return outcome.regrets("Pawl", cold=self.cold, against=self.against)
        return [outcome.regret("Pawl", cold=self.cold, against=self.against)]


_AIMS = (
    _Aim(text="from a cold start, over the first ten failures: at most 5 % behind the clairvoyant", limit=0.05, cold=True, against=CLAIRVOYANT),
    _Aim(text="and at most 5 % behind the fixed interval that was best over those ten", limit=0.05, cold=True, against=BEST),
    _Aim(text="after ten failures: at most 2 % behind the clairvoyant", limit=0.02, cold=False, against=CLAIRVOYANT),
    _Aim(text="the same in each life by itself", limit=0.02, cold=False, against=CLAIRVOYANT, by_life=True),
    _Aim(text="after ten failures: at most 1 % behind the best fixed interval", limit=0.01, cold=False, against=BEST),
    _Aim(text="the same in each life by itself, against the fixed interval that was best in that life", limit=0.01, cold=False, against=BEST_OF_LIFE, by_life=True),
)  # fmt: skip


def aims_text(outcomes: Sequence[Outcome]) -> str:
    """Each aim with its verdict; where it is missed, where."""
    lines = []
    for aim in _AIMS:
        regrets = [(regret, outcome) for outcome in outcomes for regret in aim.regrets(outcome)]
        worst, where = max(regrets, key=lambda item: item[0])
        missed = sum(regret > aim.limit for regret, _ in regrets)
        what = "lives" if aim.by_life else "cases"
        verdict = (
            f"missed in {missed} of {len(regrets)} {what}"
            if missed
            else f"met in all {len(regrets)} {what}"
        )
        lines.append(
            f"- {aim.text}: **{verdict}**; mean {_percent(statistics.fmean(r for r, _ in regrets))}, worst {_percent(worst)} "
            f"({where.site}, {where.process}, {where.profile})."
        )
    return "\n".join(lines)


def rules_table(outcomes: Sequence[Outcome]) -> str:
    """Goodput lost against the clairvoyant, by rule, over all cases."""
    rows = [["rule", "first ten: mean", "worst", "after ten: mean", "worst"]]
    for rule in outcomes[0].later:
        if rule == CLAIRVOYANT:
            continue
        cells = [rule]
        for cold in (True, False):
            regrets = [o.regret(rule, cold=cold, against=CLAIRVOYANT) for o in outcomes]
            cells += [_percent(statistics.fmean(regrets)), _percent(max(regrets))]
        rows.append(cells)
    return table(rows)


def cases_table(outcomes: Sequence[Outcome]) -> str:
    """Every case: the share of the time whose work was kept, and by how much Pawl kept more or less."""
    rows = [
        [
            "workers",
            "failures",
            "saves",
            "best fixed",
            "kept by the clairvoyant",
            "Pawl, first ten",
            "Pawl, after ten",
            "against best fixed, first ten",
            "after ten",
            "in the worst life",
        ]
    ]
    rows += [
        [
            outcome.site,
            outcome.process,
            outcome.profile,
            f"{outcome.best_s:.0f} s",
            _percent(outcome.kept(CLAIRVOYANT, cold=False), 1),
            *(
                _more(outcome.regret("Pawl", cold=cold, against=against))
                for against in (CLAIRVOYANT, BEST)
                for cold in (True, False)
            ),
            _more(max(outcome.regrets("Pawl", cold=False, against=BEST_OF_LIFE))),
        ]
        for outcome in outcomes
    ]
    return table(rows)


def plot(outcomes: Sequence[Outcome]) -> str:
    """Regret of each rule against the clairvoyant after ten failures: a dot for each case, a bar for the mean."""
    rules = [rule for rule in outcomes[0].later if rule not in _SEERS]
    left, width, row = 190, 560, 30
    most = 0.3
    height = 70 + row * len(rules)

    def x(regret: float) -> float:
        return left + width * min(max(regret, 0.0), most) / most

    parts = [
        f'<text x="{left}" y="20" font-weight="bold">Share of the time lost against the clairvoyant</text>'
    ]
    parts += [
        f'<line x1="{x(tick)}" x2="{x(tick)}" y1="30" y2="{height - 30}" stroke="#ddd"/>'
        f'<text x="{x(tick)}" y="{height - 12}" text-anchor="middle">{100 * tick:.0f} %{"+" if tick == most else ""}</text>'
        for tick in (0.0, 0.05, 0.1, 0.2, most)
    ]
    for number, rule in enumerate(rules):
        parts.append(
            _line(
                rule,
                48 + row * number,
                [o.regret(rule, cold=False, against=CLAIRVOYANT) for o in outcomes],
                x,
            )
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


def _more(regret: float) -> str:
    return f"{-100 * regret:+.2f} %"


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"
