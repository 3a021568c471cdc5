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
from benchmarks.figures import Samples, measure
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
from benchmarks.rivals import local_rivals, one_rank, s3_rivals
from benchmarks.sink import sink
from ray_workers.store.credentials import S3Credentials
from ray_workers.store.opening import StorageTarget

TARGETS = ("local", "sink", "ceph")
_Rounds = dict[str, list[Round]]


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
            contests = _against_rivals(options, folder, staging) if options.rival_rounds else {}
        finally:
            for left in staging.iterdir():
                left.unlink()
            staging.rmdir()
    _show(options, results, contests)


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
def _target(name: str, folder: Path, *, keep: bool = True) -> Iterator[StorageTarget]:
    if name == "local":
        yield StorageTarget(str(folder / "store"))
    elif name == "sink":
        with sink(keep=keep) as endpoint:
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


def _against_rivals(options: argparse.Namespace, folder: Path, staging: Path) -> _Rounds:
    """Pawl and its rivals on each target; a rival of a folder takes no part on S3, nor the other way round."""
    made = make_state(options.mib)
    found: _Rounds = {}
    for name in options.targets:
        with _target(name, folder, keep=False) as target, one_rank():
            rivals = local_rivals(made, folder) if name == "local" else s3_rivals(made, target)
            with open_job(target, made, staging) as job:
                rounds = hold({"Pawl": pawl(job), **rivals}, made, options.rival_rounds, tell=_tell)
            found |= {f"{who} ({name})": taken for who, taken in rounds.items()}
    if not options.no_ray:
        from benchmarks.ray_rival import ray_train_pairs  # noqa: PLC0415 - starts Ray

        for mode, pairs in ray_train_pairs(options.mib, options.rival_rounds, folder).items():
            found[f"Ray Train {mode} (local)"] = [
                Round(stood=stood, added=None, memcpy=memcpy) for stood, memcpy in pairs
            ]
    return found


def _show(options: argparse.Namespace, results: dict[str, Samples], contests: _Rounds) -> None:
    command = f"python -m benchmarks {' '.join(sys.argv[1:])}"
    text = (
        f"State of {options.mib} MiB, one rank. {machine()}\n\n`{command}`\n\n{table(figure_rows(results))}\n\n"
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
        options.write.write_text(replace_block(page, "figures", text))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress of a long command


if __name__ == "__main__":
    main()
