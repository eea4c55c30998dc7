"""Files of what an export says of observations: CSV, npz and HDF5, written by blocks."""

from __future__ import annotations

import contextlib
import csv
import datetime
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np

from offline_tf.numerics import large_columns
from offline_tf.types import Array

_CSV, _NPZ, _HDF5 = ".csv", ".npz", (".hdf5", ".h5", ".hdf")
_FIRST_DATE = 315_532_800.0  # 1980, in seconds since 1970
SUFFIXES = (_CSV, _NPZ, *_HDF5)
# Adds a block of rows: "action" [B, A], the rest [B]; "time", where it is, in seconds, a date in CSV.
Write = Callable[[dict[str, Array]], None]


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
            names = [name for name in sorted(block) if name not in ("action", "time")]
            times = [[moment] for moment in _dates(block["time"])] if "time" in block else None
            if not header:
                header.extend([*(["time"] if times else []), *action_names, *names])
                rows.writerow(header)
            numbers = [block[name].astype(np.float32)[:, None] for name in names]
            values = np.concatenate([block["action"], *numbers], axis=1).tolist()
            if times:
                values = [[*moment, *row] for moment, row in zip(times, values, strict=True)]
            rows.writerows(values)

        yield write


def _dates(times: Array) -> list[str]:
    """Seconds since 1970 as ISO dates; of another beginning, such as 0, as they are."""
    if len(times) and times[0] < _FIRST_DATE:
        return [f"{value:.6f}".rstrip("0").rstrip(".") for value in times]
    moments = (datetime.datetime.fromtimestamp(value, datetime.UTC) for value in times.tolist())
    return [moment.replace(tzinfo=None).isoformat(sep=" ") for moment in moments]


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
