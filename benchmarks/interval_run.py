"""`python -m benchmarks.interval_run`: rules for the interval against each other, on many made-up lives; writes docs/interval.md."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.interval_outcome import (
    BEST,
    BEST_OF_LIFE,
    CLAIRVOYANT,
    FORESEEN,
    Outcome,
)
from benchmarks.interval_page import aims_text, cases_table, plot, rules_table
from benchmarks.interval_rules import Costs, Make, clairvoyant, fixed, foreseen, pawl
from benchmarks.interval_sim import life_of, shares_kept
from benchmarks.interval_traces import PROCESSES, SITES, Process, Site
from benchmarks.page import replace_block
from ray_workers.policies.interval import optimal_interval_s

__all__ = ["compare"]

PROFILES = (
    Costs(
        name="small model, local store", cost_s=0.02, persist_s=0.5, restart_s=30.0,
        source="digits loop of this repository on two cores",
    ),
    Costs(
        name="8 GB a node, S3", cost_s=0.5, persist_s=15.0, restart_s=120.0,
        source="assumed: 0.6 GB/s a node, training slowed by 3 % meanwhile",
    ),
    Costs(
        name="64 GB a node, S3", cost_s=4.0, persist_s=110.0, restart_s=400.0,
        source="assumed: the same store",
    ),
    Costs(
        name="blocking save", cost_s=30.0, persist_s=30.0, restart_s=300.0,
        source="what a synchronous torch.save of the second profile costs",
    ),
)  # fmt: skip
FIXED = ("10 min", 600.0), ("30 min", 1800.0), ("2 h", 7200.0)
CHECKFREQ = 0.035
"""Overhead that CheckFreq (Mohan, Phanishayee, Chidambaram, FAST 2021) allows; it does not look at failures."""
_TEN = 10


def compare(site: Site, process: Process, costs: Costs, *, seeds: int, failures: int) -> Outcome:
    lives = [life_of(site, process, seed, failures) for seed in range(seeds)]

    def play(make: Make) -> tuple[tuple[float, ...], tuple[float, ...]]:
        played = [shares_kept(life, costs, make, cold=_TEN) for life in lives]
        return tuple(cold for cold, _ in played), tuple(later for _, later in played)

    exact = optimal_interval_s(costs.cost_s, site.mtbf_s)
    tried = {seconds: play(fixed(seconds)) for seconds in (exact * 1.25**n for n in range(-12, 13))}
    best_s = max(tried, key=lambda seconds: sum(tried[seconds][1]))
    rules: dict[str, Make] = {
        CLAIRVOYANT: clairvoyant(),
        "Pawl": pawl(site.workers),
        "Young/Daly, exact": fixed(exact),
        "Young/Daly, rate ÷ 4": fixed(optimal_interval_s(costs.cost_s, 4 * site.mtbf_s)),
        "Young/Daly, rate x 4": fixed(optimal_interval_s(costs.cost_s, site.mtbf_s / 4)),
        "CheckFreq": fixed(costs.cost_s / CHECKFREQ),
        **{f"every {name}": fixed(seconds) for name, seconds in FIXED},
        FORESEEN: foreseen(),
    }
    played = {name: play(make) for name, make in rules.items()}
    cold, later = (
        {
            BEST: max((shares[at] for shares in tried.values()), key=sum),
            BEST_OF_LIFE: tuple(map(max, *(shares[at] for shares in tried.values()))),
            **{name: shares[at] for name, shares in played.items()},
        }
        for at in (0, 1)
    )
    return Outcome(
        site=site.name, process=process.name, profile=costs.name, best_s=best_s, cold=cold, later=later
    )  # fmt: skip


def main() -> None:
    options = _options()
    outcomes = []
    for site in SITES:
        for process in PROCESSES:
            for costs in PROFILES:
                outcome = compare(
                    site, process, costs, seeds=options.seeds, failures=options.failures
                )
                outcomes.append(outcome)
                print(  # noqa: T201 - a command
                    f"{site.name:>12} {process.name:>18} {costs.name:>26}  best {outcome.best_s:7.0f} s  "
                    f"clairvoyant {_percent(outcome, CLAIRVOYANT)}  best fixed {_percent(outcome, BEST)}  "
                    f"of the life, worst {100 * max(outcome.regrets('Pawl', cold=False, against=BEST_OF_LIFE)):5.2f} %",
                    flush=True,
                )
    if options.write is not None:
        page: Path = options.write
        picture = page.parent / "performance" / "interval.svg"
        picture.write_text(plot(outcomes))
        text = page.read_text()
        size = f"{options.seeds} lives of {options.failures} failures for each of {len(outcomes)} cases.\n\n"
        text = replace_block(text, "bench-interval: aims", aims_text(outcomes))
        text = replace_block(text, "bench-interval: rules", size + rules_table(outcomes))
        page.write_text(replace_block(text, "bench-interval: cases", cases_table(outcomes)))


def _percent(outcome: Outcome, against: str) -> str:
    cold, later = (outcome.regret("Pawl", cold=cold, against=against) for cold in (True, False))
    return f"{100 * cold:5.2f} %, then {100 * later:5.2f} %"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interval_run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="lives for each case")
    parser.add_argument("--failures", type=int, default=60, help="of each life")
    parser.add_argument("--write", type=Path, help="page whose blocks are written anew")
    return parser.parse_args()


if __name__ == "__main__":
    main()
