"""`python -m benchmarks`: measure, print the tables, write them to the page if asked. Never fails on a time."""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.figures import Samples, copy_seconds, measure
from benchmarks.job import compute, make_state, open_job
from benchmarks.page import (
    figure_rows,
    machine,
    plot,
    replace_block,
    rival_rows,
    seconds_rows,
    table,
)
from benchmarks.rivals import RIVALS, one_rank
from benchmarks.sink import sink
from ray_workers.store.credentials import S3Credentials
from ray_workers.store.opening import StorageTarget

TARGETS = ("local", "sink", "ceph")
_Pairs = dict[str, list[tuple[float, float]]]


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    results: dict[str, Samples] = {}
    with tempfile.TemporaryDirectory(prefix="pawl-bench-", dir=options.folder) as place:
        folder = Path(place)
        staging = Path(tempfile.mkdtemp(prefix="pawl-bench-", dir=options.staging))
        try:
            for name in options.targets:
                with _target(name, folder) as target:
                    results[name] = measure(
                        target, options.mib, options.rounds, staging, tell=_tell
                    )
            stalls = _against_rivals(options, folder, staging) if options.rival_rounds else {}
        finally:
            for left in staging.iterdir():
                left.unlink()
            staging.rmdir()
    _show(options, results, stalls)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="size of the state")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved pairs for each figure")
    parser.add_argument("--rival-rounds", type=int, default=5, help="0: no rivals")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=["local", "sink"])
    parser.add_argument("--folder", default=None, help="where the local target lies")
    parser.add_argument("--staging", default="/dev/shm", help="where staging buffers lie")  # noqa: S108
    parser.add_argument("--no-ray", action="store_true", help="leave Ray Train out")
    parser.add_argument("--write", type=Path, default=None, help="the page to write the tables to")
    return parser.parse_args()


@contextlib.contextmanager
def _target(name: str, folder: Path) -> Iterator[StorageTarget]:
    if name == "local":
        yield StorageTarget(str(folder / "store"))
    elif name == "sink":
        with sink(keep=True) as endpoint:
            keys = S3Credentials(
                access_key_id="any",
                secret_access_key="any",  # noqa: S106 - opens nothing
                endpoint_url=endpoint,
            )
            yield StorageTarget("s3://bench/root", keys)
    else:
        from tests.support.ceph import CephCluster  # noqa: PLC0415 - only where Ceph is wanted

        with CephCluster.running() as cluster:
            server = cluster.server
            keys = S3Credentials(
                access_key_id=server.access_key,
                secret_access_key=server.secret_key,
                endpoint_url=server.endpoint,
            )
            yield StorageTarget(f"s3://{server.new_bucket()}/root", keys)


def _against_rivals(options: argparse.Namespace, folder: Path, staging: Path) -> _Pairs:
    """Stalls of everybody over a memcpy of the same state in the same round; the first round is not counted."""
    made = make_state(options.mib)
    spare = [torch.ones_like(tensor) for tensor in made.tensors]
    found: _Pairs = {"Pawl": [], **{name: [] for name in RIVALS}}
    with one_rank(), open_job(StorageTarget(str(folder / "store")), made, staging) as job:

        def pawl() -> float:
            stood = job.save()
            compute(0.5)
            stood += job.step()
            job.wait()
            return stood

        for number in range(options.rival_rounds + 1):
            for name in random.sample(list(found), len(found)):
                memcpy = copy_seconds(made.tensors, spare)
                stood = pawl() if name == "Pawl" else RIVALS[name](made, folder)[0]
                if number:
                    found[name].append((stood, memcpy))
            _tell(f"rivals: round {number} of {options.rival_rounds}")
    if not options.no_ray:
        from benchmarks.ray_rival import ray_train_pairs  # noqa: PLC0415 - starts Ray

        for mode, pairs in ray_train_pairs(options.mib, options.rival_rounds, folder).items():
            found[f"Ray Train {mode}"] = pairs
    return found


def _show(options: argparse.Namespace, results: dict[str, Samples], stalls: _Pairs) -> None:
    command = f"python -m benchmarks {' '.join(sys.argv[1:])}"
    text = (
        f"State of {options.mib} MiB, one rank. {machine()}\n\n`{command}`\n\n{table(figure_rows(results))}\n\n"
        f"{table(seconds_rows(results))}"
    )
    medians: dict[str, float] = {}
    if stalls:
        rows, medians = rival_rows(stalls)
        text += f"\n\n{table(rows)}"
    print(text)  # noqa: T201 - a command for people
    if options.write is not None:
        page = options.write.read_text()
        if medians:
            name = "stalls.svg"
            (options.write.parent / "performance" / name).write_text(
                plot(medians, "How long training stands still for a save ÷ one memcpy of the state")
            )
        options.write.write_text(replace_block(page, "figures", text))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress of a long command


if __name__ == "__main__":
    main()
