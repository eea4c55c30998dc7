"""How a missing package is installed: into the Python that runs, which may be that of run.sh."""

from __future__ import annotations

import importlib
import pathlib
import shlex
import sys
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parent.parent


def install(requirements: str, *options: str) -> str:
    """The command, such as ".venv/bin/python -m pip install -r requirements-formats.txt".

    Args:
      requirements: name of a file beside the code.
      options: of pip.
    """
    return _pip(*options, "-r", _from_here(_ROOT / requirements))


def install_one(package: str) -> str:
    """The command, such as ".venv/bin/python -m pip install s3fs".

    Args:
      package: one that stands in no file of ours.
    """
    return _pip(package)


def _pip(*words: str) -> str:
    python = _from_here(pathlib.Path(sys.executable))
    if "/" not in python:  # the shell would look elsewhere
        python = f"./{python}"
    return shlex.join([python, "-m", "pip", "install", *words])


def needed(module: str, requirements: str, what: str) -> Any:
    """Imports an optional package.

    Args:
      module: its name.
      requirements: the file that it stands in.
      what: needs it, such as "--engine=ray".

    Raises:
      UserError: it is not installed.
    """
    from offline_tf.types import UserError  # here, as a bare Python has no numpy

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise UserError(f"{what} needs {module}: {install(requirements)}") from None


def _from_here(path: pathlib.Path) -> str:
    """Relative to the current folder where the path lies within, else as it is."""
    here = pathlib.Path.cwd()
    return str(path.relative_to(here)) if here in path.parents else str(path)
