"""SavedModels, and the check that a fresh process computes the same."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import tensorflow as tf

from offline_tf.types import Array

_CHILD = """
import sys, numpy, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
data = numpy.load(sys.argv[2])
name = sys.argv[4]
call = loaded.signatures[name]
out = call(**{k: tf.constant(data[k]) for k in data.files})
numpy.savez(sys.argv[3], **{k: v.numpy() for k, v in out.items()})
"""


def save(module: tf.Module, folder: pathlib.Path, signatures: dict[str, object]) -> None:
    """Writes a SavedModel; the folder appears, or is replaced, only when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    tf.saved_model.save(module, str(partial), signatures=signatures)
    if folder.exists():
        shutil.rmtree(folder)
    partial.replace(folder)


def run_in_fresh_process(
    folder: pathlib.Path, signature: str, inputs: dict[str, Array]
) -> dict[str, Array]:
    """Calls a signature of a SavedModel in a new Python process that knows nothing of this project.

    Raises:
      RuntimeError: the process failed; the message holds the end of its output.
    """
    with tempfile.TemporaryDirectory() as scratch:
        given, returned = pathlib.Path(scratch, "in.npz"), pathlib.Path(scratch, "out.npz")
        np.savez(given, **inputs)  # type: ignore[arg-type]
        run = subprocess.run(
            [
                sys.executable,
                "-c",
                _CHILD,
                str(folder.resolve()),
                str(given),
                str(returned),
                signature,
            ],
            capture_output=True,
            text=True,
            cwd=scratch,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        if run.returncode:
            raise RuntimeError(f"export check of {folder} failed:\n{run.stderr[-2000:]}")
        with np.load(returned) as file:
            return {name: file[name] for name in file.files}
