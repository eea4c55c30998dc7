"""Files that results go to: looked at before time is spent on them, written whole or not at all."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from offline_tf.types import UserError


def check_writable(path: pathlib.Path, flag: str) -> None:
    """Checks, before hours are spent, that a file or folder can be written.

    Raises:
      UserError: it cannot.
    """
    # os.path: what lies in a folder that may not be searched counts as not there.
    existing = next(p for p in path.absolute().parents if os.path.exists(p))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"--{flag}: {path} cannot be written, as {existing} takes no files")


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes JSON so that a kill leaves either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2, sort_keys=False) + "\n")
    os.replace(partial, path)
