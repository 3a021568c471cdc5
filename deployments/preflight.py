"""What a flow would refuse at its beginning, refused before Prefect is started: in seconds, in one sentence, without a trace.

The flow checks all of it again; it is served and deployed too. A store that does not answer is left to the flow, which retries.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.cli_options import named_version
from deployments.named_storage import is_block
from ray_workers.store.attempts import read_run
from ray_workers.store.errors import RetryableError
from ray_workers.store.keys import check_run_name
from ray_workers.store.opening import StorageTarget
from ray_workers.store.versions import parse_reference

__all__ = ["check_named", "check_training"]

_DEFAULT = "./pawl-store"


def check_training(parameters: Mapping[str, Any]) -> None:
    """The parameters of the training flow, as far as they can be judged from here.

    Raises:
        InvalidInputError: one sentence on the first value that is wrong.
        MissingError: the version to resume is not there.
    """
    from ray_workers.entrypoints import (  # noqa: PLC0415 - the loop loads torch, for train alone
        add_code_dir,
        load_entrypoint,
        load_function,
    )

    if parameters["run"] is not None:
        check_run_name(parameters["run"])
    resume = parameters["resume"]
    if resume not in ("auto", "never"):
        parse_reference(resume)
    add_code_dir(parameters["code_dir"])
    load_entrypoint(parameters["entrypoint"])
    validation = parameters["validation"]
    if validation.probe is not None:
        load_function(validation.probe, "probe")
    for check in validation.checks:
        load_function(check, "check")
    _readable_place(parameters["storage"])
    if resume not in ("auto", "never"):
        check_named([resume], parameters["storage"])


def check_named(
    references: Sequence[str], storage: str | None, *, metric: str = "loss", mode: str = "min"
) -> None:
    """Whether each RUN or RUN@VERSION is there.

    Args:
        references: what the user named.
        storage: as the flows take it; nothing is read from behind a block, which only Prefect can open.
        metric: what `RUN@best` goes by.
        mode: whether a smaller or a larger one is better.

    Raises:
        InvalidInputError: a name that cannot be one.
        MissingError: no such store, run or version.
    """
    place = _readable_place(storage)
    if place is None:
        return
    with contextlib.suppress(RetryableError):
        for reference in references:
            if "@" in reference:
                named_version(reference, place.url, metric=metric, mode=mode)
            else:
                read_run(place.open().store, check_run_name(reference))


def _readable_place(storage: str | None) -> StorageTarget | None:
    wanted = storage or os.environ.get("PAWL_STORAGE") or _DEFAULT
    return None if is_block(wanted) else StorageTarget(wanted)
