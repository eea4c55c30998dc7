"""Files of observations, by blocks: what an export is asked about."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from offline_tf.datasets.formats import plant_logs, tables
from offline_tf.numerics import large_columns
from offline_tf.types import Array, TaskSpec, UserError

_NPZ = ".npz"
# Observations [n, S], and when their steps begin, [n] seconds; None of files without time stamps.
Block = tuple[Array, Array | None]


def blocks(
    path: pathlib.Path, names: tuple[str, ...], size: int, task: TaskSpec | None = None
) -> Iterator[Block]:
    """Reads a file's observations.

    Args:
      path: a table with the observations' names as columns, or npz or HDF5 with `observations`.
      names: of the observations.
      size: rows of a block.
      task: a plant's, whose log the table is; None: a row is an observation.

    Yields:
      Blocks of at most `size` rows.

    Raises:
      UserError: the file is damaged, or does not hold these observations.
    """
    try:
        if not tables.is_table(path):
            yield from ((block, None) for block in _of_arrays(path, names, size))
        elif task is None:
            yield from ((block, None) for block in _of_table(path, names, size))
        else:
            assert task.log is not None
            log = dataclasses.replace(task.log, reward="", adds_rewards=False)
            data, times = plant_logs.read_with_times([path], dataclasses.replace(task, log=log))
            for rows in large_columns.blocks(len(data), size):
                yield data.observations[rows], times[rows]
    except UserError as error:
        raise UserError(str(error).replace("--dataset:", "--input:")) from None
    except Exception as error:  # h5py and zipfile raise many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"--input: {path} is no readable file of observations ({reason})") from None


def _of_table(path: pathlib.Path, names: tuple[str, ...], size: int) -> Iterator[Array]:
    table = tables.Table(path)
    if missing := [name for name in names if name not in table.names]:
        raise UserError(f"--input: {path} lacks the columns {', '.join(missing)}")
    kept: list[Array] = []
    for block in table.blocks(names):
        kept.append(np.stack([block[name] for name in names], axis=1).astype(np.float32))
        while sum(map(len, kept)) >= size:
            rows = np.concatenate(kept)
            yield rows[:size]
            kept = [rows[size:]]
    if kept and sum(map(len, kept)):
        yield np.concatenate(kept)


def _of_arrays(path: pathlib.Path, names: tuple[str, ...], size: int) -> Iterator[Array]:
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
