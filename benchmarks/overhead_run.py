"""`python -m benchmarks.overhead_run`: what a real run loses to its saves under `interval: auto`, against its budget.

A run of the training flow saves as often as the budget lets it (the longest interval allowed is far shorter, so that the budget
decides), with validation beside it, for some saves; then it does not save for as many steps; and so on (`benchmarks.turns`).
Compared is the time of a step in two such stretches beside each other. Whole runs against whole runs were not precise enough:
two bare ones differ by as much as the budget.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.page import machine, replace_block, table
from benchmarks.ratios import Bar, Ratio, summarise
from benchmarks.turns import Mark, Stretch, pairs_of, stretches_of
from ray_workers.config import Saving, Scaling

REPOSITORY = Path(__file__).resolve().parent.parent
BUDGET = 0.05
LONGEST_S = 2.0
"""Far shorter than what would be lost without a save: only the budget, and the time until a save is committed, make it longer."""
WARM = 5
"""Saves before the first pair: the controller goes by the last five."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run."""

    stretches: tuple[Stretch, ...]
    cost_s: float
    """What a save cost by the run's own measure; mean."""
    interval_s: float
    """Between the begins of two saves, as the controller wanted it; median."""

    @property
    def pairs(self) -> list[tuple[Stretch, Stretch]]:
        """The stretch with saves first."""
        return pairs_of(self.stretches)


def config_of(options: argparse.Namespace, page: Path) -> dict[str, Any]:
    return {
        "epochs": 1, "steps_per_epoch": options.steps, "batch_size": 8, "layers": 4, "heads": 6, "width": options.width,
        "marks": str(page), "saves": options.saves, "warm": WARM,
    }  # fmt: skip


def saving() -> Saving:
    return Saving(
        min_interval_seconds=LONGEST_S / 2, max_interval_seconds=LONGEST_S, overhead_budget=BUDGET
    )


def train_here(folder: Path, options: argparse.Namespace) -> None:
    """In this process: the flow, with everything embedded, one worker."""
    from flows.train import train  # noqa: PLC0415 - Prefect reads its settings when it is imported

    train(
        "benchmarks.overhead_loop:train_loop",
        config=config_of(options, folder / "marks.json"),
        run="overhead",
        storage=str(folder / "store"),
        scaling=Scaling(workers=1),
        saving=saving(),
        code_dir=str(REPOSITORY),
        return_state=True,
    ).result()


def measured_run(folder: Path, options: argparse.Namespace) -> Outcome:
    """Train in a process of its own."""
    folder.mkdir(parents=True)
    # With an empty address instead of none Prefect's events fail one by one, with a page of log each.
    environment = {
        name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"
    } | {
        "PREFECT_HOME": str(folder.parent / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    }
    words = [f"--{name}={getattr(options, name)}" for name in ("steps", "width", "saves")]
    with (folder / "log").open("wb") as log:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "benchmarks.overhead_run", *words, "--one", str(folder)],
            env=environment, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"the run ended with {done.returncode}:\n{(folder / 'log').read_text()}")
    marks = [Mark(**mark) for mark in json.loads((folder / "marks.json").read_text())]
    return outcome_of(marks, _versions(folder / "store"))


def outcome_of(marks: list[Mark], versions: list[dict[str, Any]]) -> Outcome:
    """From where stretches began, and what `pawl versions --json` says of the run."""
    known = [version["durations"] for version in versions[WARM:]]
    return Outcome(
        stretches=tuple(stretches_of(marks)),
        cost_s=statistics.fmean(d["last_save_cost_s"] for d in known if "last_save_cost_s" in d),
        interval_s=statistics.median(d["interval_s"] for d in known if "interval_s" in d),
    )


def _versions(store: Path) -> list[dict[str, Any]]:
    pawl = Path(sys.executable).with_name("pawl")
    done = subprocess.run(  # noqa: S603 - our own program
        [pawl, "versions", "overhead", "--storage", store, "--json"],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    versions: list[dict[str, Any]] = json.loads(done.stdout)
    return sorted(versions, key=lambda version: version["number"])


def earlier_runs(journal: Path | None) -> list[Outcome]:
    """Those that the file has, oldest first: pairs are noisy, and one sitting is often too short for enough of them."""
    if journal is None or not journal.exists():
        return []
    found = [json.loads(line) for line in journal.read_text().splitlines()]
    return [
        Outcome(**{**one, "stretches": tuple(Stretch(**stretch) for stretch in one["stretches"])})
        for one in found
    ]


def overhead_page(outcomes: list[Outcome], *, saves: int) -> str:
    """Every pair, the median with its interval, and whether it is within the budget."""
    rows = [["run", "pair", "steps with saves", "without", "a step with saves", "without", "added"]]
    rows += [row for number, one in enumerate(outcomes, 1) for row in _rows(number, one)]
    pairs = [pair for one in outcomes for pair in one.pairs]
    ratio = summarise([(saving.step_s, bare.step_s) for saving, bare in pairs])
    own = [["run", "interval, median", "cost of a save by Pawl's own measure, mean", "its share"]]
    own += [
        [str(number), f"{one.interval_s:.1f} s", f"{one.cost_s:.2f} s", _share(one, saves)]
        for number, one in enumerate(outcomes, 1)
    ]
    parts = (_verdict(ratio), table(own), table(rows), machine())
    return "\n\n".join(parts)


def _share(one: Outcome, saves: int) -> str:
    """Of the time between two saves, as far as the run itself knows."""
    seconds = [stretch.seconds / saves for stretch in one.stretches if stretch.saving]
    return _percent(one.cost_s / (statistics.fmean(seconds) - one.cost_s))


def _rows(number: int, one: Outcome) -> list[list[str]]:
    return [
        [
            str(number),
            str(pair),
            str(saving.steps),
            str(bare.steps),
            f"{1000 * saving.step_s:.0f} ms",
            f"{1000 * bare.step_s:.0f} ms",
            _percent(saving.step_s / bare.step_s - 1),
        ]
        for pair, (saving, bare) in enumerate(one.pairs, 1)
    ]


def _verdict(ratio: Ratio) -> str:
    words = {"aim reached": "within the budget", "not reached": "above the budget"}
    word = Bar(at_least=1 + BUDGET, aim=1 + BUDGET).verdict(ratio)
    return (
        f"Added by saving: median {_percent(ratio.median - 1)}, 95 % interval {_percent(ratio.low - 1)} to "
        f"{_percent(ratio.high - 1)}, {ratio.pairs} pairs; the budget is {BUDGET:.0%}: **{words.get(word, word)}**."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def main() -> None:
    options = _options()
    if options.one is not None:
        train_here(options.one, options)
        return
    outcomes = earlier_runs(options.journal)
    before = len(outcomes)
    with tempfile.TemporaryDirectory(prefix="pawl-overhead-") as made:
        for number in range(before, before + options.runs):
            outcome = measured_run(Path(made) / str(number), options)
            outcomes.append(outcome)
            print("\n".join(" | ".join(row) for row in _rows(number + 1, outcome)), flush=True)  # noqa: T201 - a command
            if options.journal is not None:
                with options.journal.open("a") as lines:
                    lines.write(json.dumps(asdict(outcome)) + "\n")
    text = overhead_page(outcomes, saves=options.saves)
    print(text)  # noqa: T201
    if options.write is not None:
        page: Path = options.write
        page.write_text(replace_block(page.read_text(), "bench-overhead", text))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead_run", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of the flow")
    parser.add_argument("--steps", type=int, default=2400, help="of each run")
    parser.add_argument("--saves", type=int, default=4, help="of each stretch that saves")
    parser.add_argument("--width", type=int, default=384, help="of the model")
    parser.add_argument("--write", type=Path, help="page whose block is written anew")
    parser.add_argument(
        "--journal",
        type=Path,
        help="earlier runs of the same code, which count too, and this one's",
    )
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
