"""How a missing package is installed: into the Python that runs, which may be that of run.sh."""

from __future__ import annotations

import contextlib
import pathlib
import shlex
import sys


def install(what: str) -> str:
    """The command, such as ".venv/bin/python -m pip install -r requirements-formats.txt"."""
    python = pathlib.Path(sys.executable)
    with contextlib.suppress(ValueError):
        python = python.relative_to(pathlib.Path.cwd())
    return f"{shlex.quote(str(python))} -m pip install {what}"
