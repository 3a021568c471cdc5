"""Loading a user's training loop by `module:function`, on the driver and on workers."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray_workers.store.errors import InvalidInputError

__all__ = ["TrainLoop", "add_code_dir", "load_entrypoint", "load_function", "shadowed_packages"]

TrainLoop = Callable[[dict[str, Any]], None]
_OURS = ("deployments", "flows", "ray_workers", "tasks")


def load_entrypoint(entrypoint: str) -> TrainLoop:
    """The training loop that `module:function` names.

    Raises:
        InvalidInputError: it says whether the module, its import or the function is at fault.
    """
    loop: TrainLoop = load_function(entrypoint, "entrypoint")
    return loop


def load_function(reference: str, what: str) -> Any:
    """The function that `module:function` names; `what` it is for, in messages.

    Raises:
        InvalidInputError: it says whether the module, its import or the function is at fault.
    """
    module_name, colon, function = reference.partition(":")
    if not (module_name and colon and function.isidentifier()):
        raise InvalidInputError(
            f"The {what} {reference!r} is not of the form module:function, like my_project.train:train_loop."
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.startswith(error.name):
            raise InvalidInputError(
                f"The {what} {reference!r} names a module that is not found: no module {error.name!r} on the path. "
                "Start from your project's folder, or give it as code_dir."
            ) from None
        raise _import_failed(f"{what} {reference!r}", error) from error
    except (
        Exception,
        SystemExit,
    ) as error:  # a script that parses its own arguments exits at import
        raise _import_failed(f"{what} {reference!r}", error) from error
    found: Any = getattr(module, function, None)
    if not callable(found):
        raise InvalidInputError(
            f"The module {module_name!r} has no function {function!r} ({what} {reference!r})."
        )
    return found


def _import_failed(named: str, error: BaseException) -> InvalidInputError:
    return InvalidInputError(
        f"The {named} could not be imported: {type(error).__name__}: {error}. Nothing was started."
    )


def add_code_dir(code_dir: str | None) -> Path:
    """Put the user's project folder on the import path; the folder, absolute."""
    folder = Path(code_dir or ".").expanduser().resolve()
    if not folder.is_dir():
        raise InvalidInputError(f"code_dir {folder} is not a folder.")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return folder


def shadowed_packages(folder: Path, own: Mapping[str, Path] | None = None) -> list[str]:
    """Files in the user's folder that bear the name of one of our packages, and which of the two is used."""
    ours = own or {name: _origin(name) for name in _OURS}
    return [
        f"{candidate} has the name of Pawl's package {name!r}; Pawl's is used"
        for name, origin in ours.items()
        for candidate in (folder / name, folder / f"{name}.py")
        if candidate.exists() and not origin.is_relative_to(folder)
    ]


def _origin(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(locations[0]) if locations else Path("/")
