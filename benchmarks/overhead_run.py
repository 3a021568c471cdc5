"""`python -m benchmarks.overhead_run`: what a real run loses to its saves under `interval: auto`, against its budget.

Each pair is two runs of the training flow with the same steps: one that saves as often as the budget lets it (the longest
interval allowed is a few seconds, so that the budget decides), with validation beside it; and one that saves at its end only.
Compared is the time from the first step's begin to the last one's, so neither the start counts nor the last save. Which of
the two comes first alternates.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.page import machine, replace_block, table
from benchmarks.ratios import Bar, Ratio, summarise
from ray_workers.config import Saving, Scaling

REPOSITORY = Path(__file__).resolve().parent.parent
BUDGET = 0.05
LONGEST_S = 2.0
"""Far shorter than what would be lost without a save: only the budget, and the time until a save is committed, make it longer."""
_NEVER = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run that saved, and the one beside it that did not."""

    saving_s: float
    bare_s: float
    steps: int
    account: dict[str, Any]
    """What `pawl interval --json` says of the first."""
    versions: int


def config_of(steps: int, width: int, page: Path) -> dict[str, Any]:
    return {
        "epochs": 1, "steps_per_epoch": steps, "batch_size": 8, "layers": 4, "heads": 6, "width": width, "times": str(page),
    }  # fmt: skip


def saving_of(*, saves: bool) -> Saving:
    if not saves:
        return Saving(interval="fixed", every_steps=_NEVER)
    return Saving(
        min_interval_seconds=LONGEST_S / 2, max_interval_seconds=LONGEST_S, overhead_budget=BUDGET
    )


def train_here(folder: Path, steps: int, width: int, *, saves: bool) -> None:
    """In this process: the flow, with everything embedded, one worker."""
    from flows.train import train  # noqa: PLC0415 - Prefect reads its settings when it is imported

    train(
        "benchmarks.overhead_loop:train_loop",
        config=config_of(steps, width, folder / "times.json"),
        run="overhead",
        storage=str(folder / "store"),
        scaling=Scaling(workers=1),
        saving=saving_of(saves=saves),
        code_dir=str(REPOSITORY),
        return_state=True,
    ).result()


def measured_run(folder: Path, options: argparse.Namespace, *, saves: bool) -> list[float]:
    """Train in a process of its own; when each step began."""
    folder.mkdir(parents=True)
    # With an empty address instead of none Prefect's events fail one by one, with a page of log each.
    environment = {
        name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"
    } | {
        "PREFECT_HOME": str(folder.parent.parent / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    }
    words = ["--steps", str(options.steps), "--width", str(options.width), "--one", str(folder)]
    command = [sys.executable, "-m", "benchmarks.overhead_run", *words]
    with (folder / "log").open("wb") as log:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [*command, "--saves"] if saves else command,
            env=environment, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"the run ended with {done.returncode}:\n{(folder / 'log').read_text()}")
    began: list[float] = json.loads((folder / "times.json").read_text())
    return began


def measured_pair(folder: Path, options: argparse.Namespace, *, saving_first: bool) -> Outcome:
    times = {
        saves: measured_run(folder / ("saving" if saves else "bare"), options, saves=saves)
        for saves in (saving_first, not saving_first)
    }
    store = folder / "saving" / "store"
    return Outcome(
        saving_s=times[True][-1] - times[True][0],
        bare_s=times[False][-1] - times[False][0],
        steps=len(times[True]),
        account=_asked("interval", store),
        versions=len(_asked("versions", store)),
    )


def _asked(command: str, store: Path) -> Any:
    pawl = Path(sys.executable).with_name("pawl")
    done = subprocess.run(  # noqa: S603 - our own program
        [pawl, command, "overhead", "--storage", store, "--json"],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return json.loads(done.stdout)


def earlier_pairs(journal: Path | None) -> list[Outcome]:
    """Those that the file has, oldest first: pairs are noisy, and one sitting is often too short for enough of them."""
    if journal is None or not journal.exists():
        return []
    return [Outcome(**json.loads(line)) for line in journal.read_text().splitlines()]


def overhead_page(outcomes: list[Outcome]) -> str:
    """Every pair, the median with its interval, and whether it is within the budget."""
    rows = [["pair", "steps", "with saves", "without", "added", "versions", "interval in force", "Pawl's own figure"]]  # fmt: skip
    rows += [_row(number, outcome) for number, outcome in enumerate(outcomes, 1)]
    ratio = summarise([(outcome.saving_s, outcome.bare_s) for outcome in outcomes])
    return f"{table(rows)}\n\n{_verdict(ratio)}\n\n{machine()}"


def _row(number: int, outcome: Outcome) -> list[str]:
    account = outcome.account
    own = account["measured"]["overhead"]
    return [
        str(number),
        str(outcome.steps),
        f"{outcome.saving_s:.1f} s",
        f"{outcome.bare_s:.1f} s",
        _percent(outcome.saving_s / outcome.bare_s - 1),
        str(outcome.versions),
        f"{account['in_force_s']:.1f} s",
        "not known" if own is None else _percent(own),
    ]


def _verdict(ratio: Ratio) -> str:
    words = {"aim reached": "within the budget", "not reached": "above the budget"}
    word = Bar(at_least=1 + BUDGET, aim=1 + BUDGET, fewest=5).verdict(ratio)
    return (
        f"Added by saving: median {_percent(ratio.median - 1)}, 95 % interval {_percent(ratio.low - 1)} to "
        f"{_percent(ratio.high - 1)}, {ratio.pairs} pairs; the budget is {BUDGET:.0%}: **{words.get(word, word)}**."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def main() -> None:
    options = _options()
    if options.one is not None:
        train_here(options.one, options.steps, options.width, saves=options.saves)
        return
    outcomes = earlier_pairs(options.journal)
    before = len(outcomes)
    with tempfile.TemporaryDirectory(prefix="pawl-overhead-") as made:
        for number in range(before, before + options.pairs):
            outcome = measured_pair(Path(made) / str(number), options, saving_first=number % 2 == 0)
            outcomes.append(outcome)
            print(" | ".join(_row(number + 1, outcome)), flush=True)  # noqa: T201 - a command
            if options.journal is not None:
                with options.journal.open("a") as lines:
                    lines.write(json.dumps(asdict(outcome)) + "\n")
    text = overhead_page(outcomes)
    print(text)  # noqa: T201
    if options.write is not None:
        page: Path = options.write
        page.write_text(replace_block(page.read_text(), "bench-overhead", text))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead_run", description=__doc__)
    parser.add_argument("--pairs", type=int, default=7, help="of runs")
    parser.add_argument("--steps", type=int, default=200, help="of each run")
    parser.add_argument("--width", type=int, default=384, help="of the model")
    parser.add_argument("--write", type=Path, help="page whose block is written anew")
    parser.add_argument(
        "--journal",
        type=Path,
        help="pairs of earlier runs of the same code, which count too, and of this one",
    )
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--saves", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
