"""`MODULE:OBJECT` from a command line becomes the user's `Worker`."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from broker.errors import ConfigurationError

if TYPE_CHECKING:
    from broker.worker import Worker


def load_worker_object(target: str) -> Worker:
    """Imports `target`, for which the current folder is importable, and returns the worker it names.

    Args:
        target: `module:object`; both may have dots.

    Raises:
        ConfigurationError: It isn't of that form, the module or the object is missing, importing the module failed, or
            the object is no `broker.Worker`. The message tells which, and what to do.
    """
    from broker.worker import Worker

    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise ConfigurationError(f"{target!r} does not name a worker: write MODULE:OBJECT, for example `jobs:worker`.")
    found = _attribute(_imported(module_name), path)
    if not isinstance(found, Worker):
        raise ConfigurationError(
            f"`{target}` is a {type(found).__name__}, not a broker.Worker: name the object that your handlers were "
            "registered with."
        )
    return found


def _imported(name: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"There is no module {error.name!r}: start from the folder that holds it ({folder} was searched), or "
                "install it."
            ) from None
        raise ConfigurationError(f"Importing {name!r} failed: {error}. Install it, or mend the import.") from error
    except Exception as error:
        raise ConfigurationError(f"Importing {name!r} failed: {_where_and_why(error)}") from error


def _attribute(module: ModuleType, path: str) -> object:
    found: object = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigurationError(
                f"The module {module.__name__!r} ({module.__file__}) has no {path!r}: check its spelling."
            ) from None
    return found


def _where_and_why(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}."
