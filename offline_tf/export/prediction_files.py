"""Files of observations, and files of what an export says of them: CSV, npz and HDF5, by blocks."""

from __future__ import annotations

import contextlib
import csv
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np

from offline_tf.numerics import large_columns
from offline_tf.types import Array, UserError

_CSV, _NPZ, _HDF5 = ".csv", ".npz", (".hdf5", ".h5", ".hdf")
SUFFIXES = (_CSV, _NPZ, *_HDF5)
# Adds a block of rows: "action" [B, A], the rest [B].
Write = Callable[[dict[str, Array]], None]


def observations(path: pathlib.Path, names: tuple[str, ...], size: int) -> Iterator[Array]:
    """Reads a file's observations.

    Args:
      path: a file of one of SUFFIXES.
      names: of the observations; columns of a CSV.
      size: rows of a block.

    Yields:
      Blocks [n, S] float32.

    Raises:
      UserError: the file is damaged, or does not hold these observations.
    """
    read = _read_csv if path.suffix.lower() == _CSV else _read_arrays
    try:
        yield from read(path, names, size)
    except UserError:
        raise
    except Exception as error:  # h5py, zipfile and csv raise many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"--input: {path} is no readable file of observations ({reason})") from None


def _read_csv(path: pathlib.Path, names: tuple[str, ...], size: int) -> Iterator[Array]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = [name.strip() for name in next(rows, [])]
        missing = [name for name in names if name not in header]
        if missing:
            raise UserError(f"--input: {path} lacks the columns {', '.join(missing)}")
        at = [header.index(name) for name in names]
        block: list[list[float]] = []
        for row in rows:
            if not row:
                continue
            try:
                block.append([float(row[i]) for i in at])
            except (ValueError, IndexError):
                raise UserError(
                    f"--input: {path}, line {rows.line_num}: expected numbers for "
                    f"{', '.join(names)}"
                ) from None
            if len(block) == size:
                yield np.array(block, np.float32)
                block = []
        if block:
            yield np.array(block, np.float32)


def _read_arrays(path: pathlib.Path, names: tuple[str, ...], size: int) -> Iterator[Array]:
    opened: Any = np.load(path) if path.suffix.lower() == _NPZ else h5py.File(path, "r")
    with opened as file:
        if "observations" not in file:
            raise UserError(
                f"--input: {path} lacks 'observations', got {', '.join(file) or 'none'}"
            )
        values = file["observations"]
        if len(values.shape) != 2 or values.shape[1] != len(names):
            raise UserError(
                f"--input: {path}: expected observations of shape (rows, {len(names)}), got "
                f"{values.shape}"
            )
        for rows in large_columns.blocks(len(values), size):
            yield np.asarray(values[rows], np.float32)


@contextlib.contextmanager
def writing(path: pathlib.Path, suffix: str, action_names: tuple[str, ...]) -> Iterator[Write]:
    """Opens a file for predictions; leaves a complete file or none.

    Args:
      path: the file.
      suffix: one of SUFFIXES; that of the path may be another.
      action_names: A names; columns of a CSV.

    Yields:
      What adds rows.
    """
    if suffix == _CSV:
        opened = _writing_csv(path, action_names)
    else:
        opened = _writing_npz(path) if suffix == _NPZ else _writing_hdf5(path)
    try:
        with opened as write:
            yield write
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _writing_csv(path: pathlib.Path, action_names: tuple[str, ...]) -> Iterator[Write]:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        header: list[str] = []

        def write(block: dict[str, Array]) -> None:
            names = [name for name in sorted(block) if name != "action"]
            if not header:
                header.extend([*action_names, *names])
                rows.writerow(header)
            numbers = [block[name].astype(np.float32)[:, None] for name in names]
            rows.writerows(np.concatenate([block["action"], *numbers], axis=1).tolist())

        yield write


@contextlib.contextmanager
def _writing_npz(path: pathlib.Path) -> Iterator[Write]:
    writers: dict[str, large_columns.ColumnWriter] = {}

    def write(block: dict[str, Array]) -> None:
        for name, values in block.items():
            writers.setdefault(name, large_columns.ColumnWriter()).append(values)

    yield write
    arrays: dict[str, Any] = {name: writer.finish() for name, writer in writers.items()}
    with path.open("wb") as file:
        np.savez(file, **arrays)


@contextlib.contextmanager
def _writing_hdf5(path: pathlib.Path) -> Iterator[Write]:
    with h5py.File(path, "w") as file:

        def write(block: dict[str, Array]) -> None:
            for name, values in block.items():
                if name not in file:
                    shape = (None, *values.shape[1:])
                    file.create_dataset(name, data=values, maxshape=shape)
                    continue
                column = file[name]
                column.resize(len(column) + len(values), axis=0)
                column[-len(values) :] = values

        yield write
