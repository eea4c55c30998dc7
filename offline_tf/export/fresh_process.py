"""A few lines of Python in a process of their own: what an export computes where nothing of ours is."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from offline_tf import quiet_start
from offline_tf.types import Array


def run(
    code: str, path: pathlib.Path, given: Mapping[str, Array], words: tuple[str, ...] = ()
) -> dict[str, Array]:
    """Runs a program with arrays, and returns the arrays that it writes.

    Args:
      code: of the program; sys.argv[1:] is the export, an npz to read, an npz to write, the words.
      path: of the export.
      given: arrays by name.
      words: more arguments.

    Raises:
      RuntimeError: the process failed; the message holds the end of its output.
    """
    with tempfile.TemporaryDirectory() as scratch:
        inputs, returned = pathlib.Path(scratch, "in.npz"), pathlib.Path(scratch, "out.npz")
        arrays: dict[str, Any] = dict(given)
        np.savez(inputs, **arrays)
        run = subprocess.run(
            [sys.executable, "-c", code, str(path.resolve()), str(inputs), str(returned), *words],
            capture_output=True,
            text=True,
            cwd=scratch,
            start_new_session=True,  # Ctrl-C is for the run, which stops where it is safe
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        if run.returncode:
            errors = quiet_start.without_start_up(run.stderr)
            raise RuntimeError(f"export check of {path} failed:\n{errors[-2000:]}")
        with np.load(returned) as file:
            return {name: file[name] for name in file.files}


def largest_difference(found: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """The largest difference of numbers; of arrays above 1, relative to the largest.

    What is true or false is not compared: it follows from numbers that are.
    """
    worst = 0.0
    for name, value in expected.items():
        if value.dtype.kind == "f":
            scale = max(float(np.abs(value).max()), 1.0)
            worst = float(np.maximum(worst, np.abs(found[name] - value).max() / scale))
    return worst
