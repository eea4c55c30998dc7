"""Columns that may be larger than memory: made, and gone through, by blocks of rows.

A column of more than `largest_resident` bytes lies in a nameless scratch file, memory-mapped, that
vanishes with the process however it ends. To its users it is a numpy array, not to be copied whole.
"""

from __future__ import annotations

import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np

from offline_tf.types import Array, UserError

_ROWS = 65_536


def machine_memory() -> int:
    """Bytes of memory: this machine's, or what a container may use."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = pathlib.Path("/sys/fs/cgroup/memory.max")
    try:
        return min(memory, int(limit.read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return memory


def largest_resident() -> int:
    """Bytes of a column that stays in memory: $OFFLINE_TF_COLUMN_MB, else a 32nd of the memory.

    Raises:
      UserError: the variable is not a positive number.
    """
    setting = os.environ.get("OFFLINE_TF_COLUMN_MB", "")
    if not setting:
        return machine_memory() // 32
    try:
        megabytes = float(setting)
    except ValueError:
        megabytes = 0.0
    if not 0.0 < megabytes < math.inf:
        raise UserError(f"OFFLINE_TF_COLUMN_MB: expected a positive number, got {setting!r}")
    return int(megabytes * 2**20)


def cache_folder(data_dir: str = "") -> pathlib.Path:
    """--data_dir, else $OFFLINE_TF_DATA, else ~/.cache/offline_tf."""
    chosen = data_dir or os.environ.get("OFFLINE_TF_DATA", "")
    return pathlib.Path(chosen) if chosen else pathlib.Path.home() / ".cache" / "offline_tf"


def scratch_folder() -> pathlib.Path:
    """Where large columns lie: $OFFLINE_TF_SCRATCH, else $OFFLINE_TF_DATA, else ~/.cache/offline_tf.

    Raises:
      UserError: it is missing and cannot be made.
    """
    folder = pathlib.Path(os.environ.get("OFFLINE_TF_SCRATCH") or cache_folder())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"OFFLINE_TF_SCRATCH: expected a folder for large columns at {folder}, which cannot be "
            f"made ({error.strerror})"
        ) from None
    return folder


def scratch_bytes() -> int:
    """Bytes that may be written there: half of what is free."""
    return shutil.disk_usage(scratch_folder()).free // 2


def blocks(count: int, size: int | None = None) -> Iterator[slice]:
    """Yields slices of at most `size` rows that cover [0, count); one empty slice where count is 0."""
    size = size or _ROWS
    for start in range(0, max(count, 1), size):
        yield slice(start, min(start + size, count))


class ColumnWriter:
    """A column that grows: in memory while it is small, in a scratch file beyond."""

    def __init__(self) -> None:
        """Nothing is written yet."""
        self._limit = largest_resident()
        self._parts: list[Array] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None
        self._like = np.empty(0)
        self._rows = 0

    def append(self, part: Array) -> None:
        """Adds rows [n, ..]; dtype and trailing shape are those of the first part.

        Raises:
          ValueError: the trailing shape differs.
          UserError: the disk is full.
        """
        if not self._rows:
            self._like = part[:0].copy()
        if part.shape[1:] != self._like.shape[1:]:
            raise ValueError(f"expected rows of {self._like.shape[1:]}, got {part.shape[1:]}")
        rows = np.ascontiguousarray(part, self._like.dtype)
        self._parts.append(rows)
        self._rows += len(rows)
        self._bytes += rows.nbytes
        if self._bytes > self._limit:
            self._spill()

    def _spill(self) -> None:
        folder = scratch_folder()
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            for part in self._parts:
                if part.size:
                    self._file.write(part.reshape(-1).view(np.uint8).data)
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"--dataset: its columns do not fit into {folder} ({error.strerror or error}); set "
                "OFFLINE_TF_SCRATCH to a folder on a larger disk, or OFFLINE_TF_COLUMN_MB to keep "
                "larger columns in memory"
            ) from None
        self._parts = []

    def finish(self) -> Array:
        """Returns the column [N, ..], read-only where it lies on disk."""
        if self._file is None:
            return np.concatenate(self._parts) if self._parts else self._like.copy()
        shape = (self._rows, *self._like.shape[1:])
        return np.memmap(self._file, self._like.dtype, mode="r", shape=shape)


def selected(column: Array, kept: Array) -> Array:
    """The rows of a column [N, ..] that are kept, [N] bool."""
    writer = ColumnWriter()
    for rows in blocks(len(column)):
        writer.append(column[rows][kept[rows]])
    return writer.finish()


def derive(function: Callable[..., Array], *columns: Array) -> Array:
    """Applies a function of rows by blocks.

    Args:
      function: ([n, ..], ...) -> [n, ..], each row on its own.
      columns: [N, ..] each.

    Returns:
      [N, ..].
    """
    writer = ColumnWriter()
    for rows in blocks(len(columns[0])):
        writer.append(np.asarray(function(*(column[rows] for column in columns))))
    return writer.finish()
