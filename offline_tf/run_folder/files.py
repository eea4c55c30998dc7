"""Files that results go to: looked at before time is spent on them, written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np

from offline_tf.types import Array, UserError


def check_writable(path: pathlib.Path, flag: str) -> None:
    """Checks, before hours are spent, that a file or folder can be written.

    Raises:
      UserError: it cannot.
    """
    # os.path: what lies in a folder that may not be searched counts as not there.
    existing = next(p for p in path.absolute().parents if os.path.exists(p))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"--{flag}: {path} cannot be written, as {existing} takes no files")


@contextlib.contextmanager
def whole(path: pathlib.Path, ending: str = ".partial") -> Iterator[pathlib.Path]:
    """Gives a name to write to; at the end it becomes the path, and on an error it is gone.

    A kill leaves either what was there before or the new file.

    Args:
      path: of a file, or of a folder that is not there yet.
      ending: of the name to write to.

    Raises:
      OSError: the disk is full, say; its filename is the path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ending)
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(str(partial)):
            error.filename = str(path)
        raise
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def check_space(path: pathlib.Path, needed: int) -> None:
    """Checks that a disk has room; HDF5's library crashes where it comes upon a full one.

    Args:
      path: of the file.
      needed: bytes of its content.

    Raises:
      OSError: it has not, with the words of a full disk.
    """
    existing = next(p for p in path.absolute().parents if p.exists())
    if shutil.disk_usage(existing).free < needed + needed // 50 + 100_000:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def read_json(path: pathlib.Path, flag: str, advice: str = "train again") -> dict[str, Any]:
    """Reads a JSON file of ours that holds names and values.

    Args:
      path: of the file.
      flag: what named the folder that it lies in, for the error.
      advice: what to do where it is damaged.

    Raises:
      UserError: it is gone, or damaged.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--{flag}: {path} cannot be read ({reason}); {advice}") from None
    if not isinstance(content, dict):
        raise UserError(f"--{flag}: expected names and values in {path}, got others; {advice}")
    return content


def read_arrays(path: pathlib.Path, flag: str, advice: str = "train again") -> dict[str, Array]:
    """Reads an npz file of ours; arguments and errors as in `read_json`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # a damaged archive may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"--{flag}: {path} cannot be read ({reason}); {advice}") from None


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes JSON so that a kill leaves either the old file or the new one."""
    with whole(path) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=False) + "\n")
