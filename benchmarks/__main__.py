"""`python -m benchmarks`: measure, print the tables, write them to the page if asked. Never fails on a time."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.contest import Round, hold, pawl
from benchmarks.figures import Samples
from benchmarks.job import make_state, open_job
from benchmarks.page import (
    figure_rows,
    machine,
    plot,
    replace_block,
    rival_rows,
    seconds_rows,
    table,
)
from benchmarks.ranks import on_ranks
from benchmarks.rivals import local_rivals, one_rank, s3_rivals
from benchmarks.scale import DECISION, decision_pairs
from benchmarks.taking import Places, measure
from benchmarks.targets import TARGETS, opened_target

_Rounds = dict[str, list[Round]]


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    results: dict[str, Samples] = {}
    contests: _Rounds = {}
    with _folders(options) as (folder, staging):
        for mib in options.mib:
            for name in options.targets:
                for world in options.ranks:
                    results[_label(name, mib, world)] = _measured(
                        options, name, mib, world, folder, staging
                    )
                if options.rival_rounds:
                    contests |= _against_rivals(options, name, mib, folder, staging)
            if options.rival_rounds and not options.no_ray:
                contests |= _against_ray(options, mib, folder, staging)
        if options.decisions:
            results["sink, 1,000 versions"] = _decisions(options.rounds)
    _show(options, results, contests)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--mib", type=int, nargs="+", default=[512], help="sizes of the state")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="that share it")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved pairs for each figure")
    parser.add_argument("--rival-rounds", type=int, default=15, help="0: no rivals")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=["local", "sink"])
    parser.add_argument("--folder", default=None, help="where the local target lies")
    parser.add_argument("--staging", default="/dev/shm", help="where staging buffers lie")  # noqa: S108
    parser.add_argument("--no-ray", action="store_true", help="leave Ray Train out")
    parser.add_argument(
        "--no-decisions", dest="decisions", action="store_false", help="leave out 1,000 versions"
    )
    parser.add_argument("--write", type=Path, default=None, help="the page to write the tables to")
    parser.add_argument("--block", default="figures", help="the part of the page that is theirs")
    return parser.parse_args()


@contextlib.contextmanager
def _folders(options: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    with (
        tempfile.TemporaryDirectory(prefix="pawl-bench-", dir=options.folder) as place,
        tempfile.TemporaryDirectory(prefix="pawl-bench-", dir=options.staging) as staging,
    ):
        yield Path(place), Path(staging)


def _label(name: str, mib: int, world: int) -> str:
    return f"{name}, {mib} MiB, {world} rank{'s' if world > 1 else ''}"


def _measured(
    options: argparse.Namespace, name: str, mib: int, world: int, folder: Path, staging: Path
) -> Samples:
    with opened_target(name, folder) as (target, kept):
        places = Places(name=_label(name, mib, world), target=target, kept=kept, staging=staging)
        found: Samples = on_ranks(world, measure, places, mib, options.rounds)
    return found


def _decisions(rounds: int) -> Samples:
    samples = Samples()
    for seconds in decision_pairs(rounds):
        samples.add(DECISION, seconds, 1.0)
    return samples


def _against_rivals(
    options: argparse.Namespace, name: str, mib: int, folder: Path, staging: Path
) -> _Rounds:
    """Pawl and its rivals on one target; a rival of a folder takes no part on S3, nor the other way round."""
    made = make_state(mib)
    with opened_target(name, folder) as (target, _), one_rank():
        rivals = local_rivals(made, folder) if name == "local" else s3_rivals(made, target)
        with open_job(target, made, staging) as job:
            rounds = hold({"Pawl": pawl(job), **rivals}, made, options.rival_rounds, tell=_tell)
    return {f"{who} ({name}, {mib} MiB)": taken for who, taken in rounds.items()}


def _against_ray(options: argparse.Namespace, mib: int, folder: Path, staging: Path) -> _Rounds:
    """Pawl and Ray Train's own two ways, in turns in one loop of Ray Train."""
    from benchmarks.ray_rival import ray_train_rounds  # noqa: PLC0415 - starts Ray

    found = ray_train_rounds(mib, options.rival_rounds, folder, staging)
    return {f"{who} (in Ray Train, {mib} MiB)": rounds for who, rounds in found.items()}


def _show(options: argparse.Namespace, results: dict[str, Samples], contests: _Rounds) -> None:
    command = f"python -m benchmarks {' '.join(sys.argv[1:])}".strip()
    text = (
        f"{machine()}\n\n`{command}`\n\n{table(figure_rows(results, contests))}\n\n"
        f"{table(seconds_rows(results))}"
    )
    medians: dict[str, float] = {}
    if contests:
        rows, medians = rival_rows(contests)
        text += f"\n\n{table(rows)}"
    print(text)  # noqa: T201 - a command for people
    if options.write is not None:
        page = options.write.read_text()
        if medians:
            name = "stalls.svg"
            (options.write.parent / "performance" / name).write_text(
                plot(medians, "How long training stands still for a save ÷ one memcpy of the state")
            )
        options.write.write_text(replace_block(page, options.block, text))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress of a long command


if __name__ == "__main__":
    main()
