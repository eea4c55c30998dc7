"""Where results go: looked at before time is spent on them."""

from __future__ import annotations

import os
import pathlib

from offline_tf.types import UserError


def check_writable(path: pathlib.Path, flag: str) -> None:
    """Checks, before hours are spent, that a file or folder can be written.

    Raises:
      UserError: it cannot.
    """
    # os.path: what lies in a folder that may not be searched counts as not there.
    there = next(p for p in path.absolute().parents if os.path.exists(p))
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"--{flag}: {path} cannot be written, as {there} takes no files")
