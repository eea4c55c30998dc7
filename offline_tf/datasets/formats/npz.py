"""npz archives and CSV tables with named columns."""

from __future__ import annotations

import csv
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from offline_tf.datasets.formats import columns, episodes
from offline_tf.numerics.large_columns import ColumnWriter
from offline_tf.numerics.size_limits import check_size
from offline_tf.types import Array, TaskSpec, Transitions, UserError

_OPTIONAL = ("reward", "terminal", "timeout")
_ROWS_PER_BLOCK = 65536


class _Member:
    """A column of an npz archive that is unpacked by blocks.

    Going back means to begin anew, so blocks are asked for in order.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        """Reads the header.

        Raises:
          ValueError: it holds objects, is no array, or has another size than its header says.
        """
        self._file = archive.open(name)
        major, _ = np.lib.format.read_magic(self._file)
        readers = {
            1: np.lib.format.read_array_header_1_0,
            2: np.lib.format.read_array_header_2_0,
        }
        if major not in readers:
            raise ValueError(f"{name} is of the unknown version {major}")
        self.shape, self._fortran, self.dtype = readers[major](self._file)
        if self.dtype.hasobject:
            raise ValueError(f"{name} holds Python objects")
        self._start = self._file.tell()
        self._row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        self._whole: Array | None = None
        promised = self._start + self.dtype.itemsize * int(np.prod(self.shape, dtype=np.float64))
        if promised != archive.getinfo(name).file_size:
            raise ValueError(f"{name} has another size than its header says")

    @property
    def resident(self) -> int:
        """Bytes that have to be in memory at once: all of a column that lies by columns."""
        return self._row * len(self) if self._fortran else 0

    def __len__(self) -> int:
        """Rows."""
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        """Rows [start, stop), without a step."""
        if self._fortran and self._whole is None:
            self._file.seek(self._start)
            flat = np.frombuffer(self._file.read(self._row * len(self)), self.dtype)
            self._whole = flat.reshape(self.shape[::-1]).T
        if self._whole is not None:
            return self._whole[rows]
        start, stop = min(rows.start, len(self)), min(rows.stop, len(self))
        self._file.seek(self._start + self._row * start)
        part = self._file.read(self._row * (stop - start))
        if len(part) < self._row * (stop - start):
            raise ValueError("it ends too early")
        return np.frombuffer(part, self.dtype).reshape(stop - start, *self.shape[1:])


def read_npz(path: pathlib.Path, state_dim: int | None = None) -> Transitions:
    """Reads an archive of D4RL's columns (or one of their aliases); no pickled objects.

    Raises:
      UserError: the archive is damaged, holds objects, or would not fit on the disk.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            member_of = episodes.renamed({name: name for name in members})
            arrays = {name: _Member(archive, members[key]) for name, key in member_of.items()}
            check_size(sum(column.resident for column in arrays.values()), str(path))
            return columns.from_columns(arrays, str(path), state_dim)
    except UserError:
        raise
    except Exception as error:  # zipfile and numpy raise many kinds for a damaged archive
        raise UserError(columns.unreadable(path, "npz archive", error)) from None


def read_csv(path: pathlib.Path, task: TaskSpec) -> Transitions:
    """Reads a table with a header row; one row is one control step.

    Columns: the task's observation and action names; `reward` (absent: 0 everywhere); `episode`, any
    number or text that changes where a new episode begins, or `terminal` and `timeout` (0 or 1) on
    last rows; `next_` and an observation's name for all observations, if they are recorded. Other
    columns are ignored.

    Args:
      path: of the file.
      task: names the columns.

    Raises:
      UserError: a column is missing, or a cell is not a number (its line is named).
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = [name.strip() for name in next(rows, [])]
            return _from_rows(header, rows, path, task)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(columns.unreadable(path, "CSV table", error)) from None


def _from_rows(header: Sequence[str], rows: Any, path: pathlib.Path, task: TaskSpec) -> Transitions:
    nexts = [f"next_{name}" for name in task.observation_names]
    needed = [*task.observation_names, *task.action_names]
    missing = [name for name in needed if name not in header]
    if missing:
        raise UserError(
            f"--dataset: {path} lacks the columns {', '.join(missing)} of --env={task.name}, "
            f"got {', '.join(header) or 'an empty file'}"
        )
    twice = sorted({n for n in (*needed, *nexts, *_OPTIONAL, "episode") if header.count(n) > 1})
    if twice:
        raise UserError(
            f"--dataset: {path} has several columns called {', '.join(twice)}; name each once"
        )
    recorded = all(name in header for name in nexts)
    optional = [name for name in _OPTIONAL if name in header]
    names_read = needed + (nexts if recorded else []) + optional
    indices = [header.index(name) for name in names_read]
    episode_index = header.index("episode") if "episode" in header else None
    groups = {"observations": list(task.observation_names), "actions": list(task.action_names)}
    groups |= {"next_observations": nexts} if recorded else {}
    groups |= {name: [name] for name in optional}
    writers = {name: ColumnWriter() for name in groups}
    changed = ColumnWriter()

    def write(block: list[list[float]], changes: list[bool]) -> None:
        table = np.array(block, np.float64).reshape(-1, len(names_read))
        for group, names in groups.items():
            with np.errstate(over="ignore"):  # beyond float32 is infinite; the doctor names it
                part = table[:, [names_read.index(name) for name in names]].astype(np.float32)
            writers[group].append(part[:, 0] if group in optional else part)
        changed.append(np.array(changes, bool))

    block: list[list[float]] = []
    changes: list[bool] = []
    last_name: str | None = None
    for row in rows:
        if not row:
            continue
        try:
            block.append([float(row[i]) for i in indices])
            name = row[episode_index] if episode_index is not None else ""
        except (ValueError, IndexError):
            cells = {
                w: row[i] if i < len(row) else "nothing"
                for w, i in zip(names_read, indices, strict=True)
            }
            bad_cell = next((f"{w}={c!r}" for w, c in cells.items() if not _is_number(c)), "a cell")
            raise UserError(
                f"--dataset: {path}, line {rows.line_num}: expected a number, got {bad_cell}"
            ) from None
        changes.append(last_name is not None and name != last_name)
        last_name = name
        if len(block) == _ROWS_PER_BLOCK:
            write(block, changes)
            block, changes = [], []
    write(block, changes)
    table_columns = {name: writer.finish() for name, writer in writers.items()}
    begins = changed.finish()
    count = len(begins)
    if not count:
        raise UserError(f"--dataset: {path}: expected rows under the header, found none")
    zeros = np.zeros(count, np.float32)
    for name in ("terminal", "timeout"):
        if not np.isfinite(table_columns.get(name, zeros)).all():
            raise UserError(f"--dataset: {path}: expected flags in {name!r}, got NaN or infinity")
    terminals = table_columns.pop("terminal", zeros) != 0.0
    timeouts = table_columns.pop("timeout", zeros) != 0.0
    timeouts[:-1] |= begins[1:] & ~terminals[:-1]
    timeouts[-1] |= not terminals[-1]
    table_columns |= {
        "rewards": table_columns.pop("reward", zeros),
        "terminals": terminals,
        "timeouts": timeouts,
    }
    return columns.from_columns(table_columns, str(path), task.state_dim)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
