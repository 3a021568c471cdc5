"""One parser of stored bytes under libFuzzer: `python -m tests.support.coverage_guided NAME SECONDS FOLDER`.

Needs atheris (`pip install '.[fuzz]'`). Ends with 0 when the time is over, and otherwise with what libFuzzer ends with; the
input that broke something is then in FOLDER as `crash-…`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ray_workers.store", "ray_workers.state_join", "json"]):
    from tests.support.fuzz_targets import PARSERS

_MAX_BYTES = 64 * 1024


def main() -> None:
    name, seconds, folder = sys.argv[1:4]
    target, example = PARSERS[name]
    corpus = Path(folder) / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "example").write_bytes(example())
    options = [
        f"-max_total_time={seconds}", f"-max_len={_MAX_BYTES}", "-timeout=60", "-rss_limit_mb=4096",
        "-print_final_stats=1", f"-artifact_prefix={folder}/", str(corpus),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
