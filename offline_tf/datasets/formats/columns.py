"""From named columns to Transitions, whatever file the columns came from."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from absl import logging

from offline_tf.datasets.formats import ends
from offline_tf.numerics.large_columns import (
    ColumnWriter,
    blocks,
    largest_resident,
    scratch_bytes,
    scratch_folder,
)
from offline_tf.numerics.size_limits import check_size
from offline_tf.types import Array, Transitions, UserError

_FLAGS = ("terminals", "timeouts", "dones")
REQUIRED = ("observations", "actions", "rewards")
DTYPES: dict[str, Any] = {
    "observations": np.float32,
    "actions": np.float32,
    "rewards": np.float32,
    "next_observations": np.float32,
    "terminals": bool,
    "timeouts": bool,
    "infos/qpos": np.float64,
    "infos/qvel": np.float64,
}
_ANT_WITH_CONTACT_FORCES, _ANT = 111, 27
_RESIDENT_PER_ROW = 64  # bytes of flags, rewards and row numbers that stay in memory
_WIDE = 1024  # bytes of a row above which blocks are cut by bytes
_BLOCK_BYTES = 2**25


def check_scratch(sizes: Iterable[int], source: str, allowed: int | None = None) -> None:
    """Refuses columns that would not fit on the scratch disk, before they are written there.

    Args:
      sizes: bytes of each column; those above `large_columns.largest_resident` go to the disk.
      source: what to name in the error.
      allowed: bytes; None: half of what is free.

    Raises:
      UserError: they are more than allowed.
    """
    total = sum(size for size in sizes if size > largest_resident())
    if not total:
        return
    allowed = scratch_bytes() if allowed is None else allowed
    if total > allowed:
        raise UserError(
            f"--dataset: {source} would take {total / 2**30:.1f} GiB in {scratch_folder()}, which "
            f"allows {allowed / 2**30:.1f} GiB; set OFFLINE_TF_SCRATCH to a folder on a larger disk, "
            "OFFLINE_TF_COLUMN_MB to keep larger columns in memory, or split the data"
        )


def unreadable(path: pathlib.Path, form: str, error: Exception) -> str:
    """The one line that says why a damaged file was not read."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return f"--dataset: {path} is no readable {form} ({reason})"


def from_columns(
    columns: Mapping[str, Any], source: str, state_dim: int | None = None, left_out: int = 0
) -> Transitions:
    """Makes Transitions of D4RL's columns: numpy arrays, h5py data sets, or what is sliced like them.

    Without next_observations, the next row's observation is taken inside an episode. An episode's last
    row has none: where it is terminal it stays, with NaN there (`types.next_known`); where the episode
    was cut it is dropped, because its value goes on from an observation that is not known. A log says
    how many rows that are. Columns of shape (N, 1) and any numeric type are accepted. Where episodes
    end: see `ends.find`.

    Args:
      columns: by D4RL's names.
      source: what to name in errors.
      state_dim: S of the task, checked when given; 111-d Ant data are cut to the first 27.
      left_out: rows that the caller has dropped for this reason, for the log.

    Raises:
      UserError: a column is missing, or shapes do not fit.
    """
    for key in REQUIRED:
        if key not in columns:
            raise UserError(
                f"--dataset: {source} lacks {key!r}; expected D4RL's keys observations, actions, "
                f"rewards, terminals, timeouts, or others' names for them, got "
                f"{', '.join(sorted(columns)) or 'none'}"
            )
    _check_shapes(columns, source)
    count, logged_width = columns["observations"].shape
    width = state_dim or logged_width
    if logged_width not in (width, _ANT_WITH_CONTACT_FORCES if width == _ANT else width):
        raise UserError(
            f"--dataset: {source} has observations of width {logged_width}, "
            f"this task has {width}; check --env"
        )
    _check_room(columns, count, source)
    terminals, timeouts = ends.find(columns, source)
    kept = np.ones(count, bool)
    if "next_observations" in columns:
        next_observations = _read(columns["next_observations"], np.float32, kept, width)
    else:
        next_known = ~(terminals | timeouts)
        next_known[-1] = False
        kept = next_known | terminals
        timeouts = cut_before_dropped(terminals, timeouts, kept)
        next_observations = _following(columns["observations"], kept, next_known, width)

    def read(name: str) -> Array:
        return _read(columns[name], DTYPES[name], kept)

    data = Transitions(
        observations=_read(columns["observations"], np.float32, kept, width),
        actions=read("actions"),
        rewards=read("rewards").reshape(-1),
        next_observations=next_observations,
        terminals=terminals[kept],
        timeouts=timeouts[kept],
        qpos=read("infos/qpos") if "infos/qpos" in columns else None,
        qvel=read("infos/qvel") if "infos/qvel" in columns else None,
    )
    _tell_unknown(data, left_out + int((~kept).sum()), source)
    return data


def cut_before_dropped(terminals: Array, timeouts: Array, kept: Array) -> Array:
    """Timeouts [N], also true where the next row of the same episode is dropped, all [N] bool."""
    return timeouts | (np.append(~kept[1:], False) & ~terminals)


def _tell_unknown(data: Transitions, left_out: int, source: str) -> None:
    """Logs what rows without a next observation are used for.

    Raises:
      UserError: there are no others.
    """
    unknown = int((~data.next_known).sum())
    if unknown == len(data):
        raise UserError(
            f"--dataset: {source} has no next_observations, and no episode of two rows or more to "
            "take them from; add the column"
        )
    if not unknown + left_out:
        return
    logging.log(
        logging.WARNING if unknown else logging.INFO,
        "--dataset: %s does not say where the last steps of %d episodes led; next_observations "
        "(CSV: next_NAME) would. %d terminal ones count for Q, cloning and returns; dynamics models, "
        "detector, learned reward and learned termination use the other %d rows. %d last rows of cut "
        "episodes are left out",
        source,
        unknown + left_out,
        unknown,
        len(data) - unknown,
        left_out,
    )


def _check_shapes(columns: Mapping[str, Any], source: str) -> None:
    """Checks that all columns hold numbers and have as many rows as the observations.

    Raises:
      UserError: one does not.
    """
    shape: tuple[int, ...] = getattr(columns["observations"], "shape", ())
    if len(shape) != 2 or not shape[0]:
        raise UserError(
            f"--dataset: {source}: expected observations of shape (rows, width), got {shape}"
        )
    count = shape[0]
    for name in (*REQUIRED, *_FLAGS, "next_observations", "infos/qpos", "infos/qvel"):
        if name not in columns:
            continue
        column_shape = getattr(columns[name], "shape", (0,))
        if column_shape[:1] != (count,):
            raise UserError(
                f"--dataset: {source} has {count} rows in observations but {column_shape[:1]} in "
                f"{name}; the file is damaged or mixes data sets"
            )
        if name in ("rewards", *_FLAGS) and int(np.prod(column_shape)) != count:
            raise UserError(
                f"--dataset: {source}: expected one number per row in {name}, got shape {column_shape}"
            )
        if getattr(columns[name], "dtype", np.dtype(object)).kind not in "biuf":
            raise UserError(f"--dataset: {source}: expected numbers in {name!r}, got other values")
    if len(columns["actions"].shape) != 2:
        raise UserError(
            f"--dataset: {source}: expected actions of shape (rows, width), "
            f"got {columns['actions'].shape}"
        )
    if "next_observations" in columns and columns["next_observations"].shape != shape:
        raise UserError(
            f"--dataset: {source}: expected next_observations of shape {shape} like observations, "
            f"got {columns['next_observations'].shape}"
        )


def _check_room(columns: Mapping[str, Any], count: int, source: str) -> None:
    """Checks that so many rows fit into the memory, and their large columns on the scratch disk.

    Raises:
      UserError: they do not.
    """
    check_size(_RESIDENT_PER_ROW * count, source)
    sizes = {
        name: count * int(np.prod(columns[name].shape[1:])) * np.dtype(kind).itemsize
        for name, kind in DTYPES.items()
        if name in columns
    }
    sizes.setdefault("next_observations", sizes["observations"])
    check_scratch(sizes.values(), source)


def _read(values: Any, dtype: Any, kept: Array, width: int | None = None) -> Array:
    """Reads a column by blocks.

    Args:
      values: [N, ...], numpy array or h5py data set.
      dtype: of the result.
      kept: [N] bool, rows that are read.
      width: of each row; None: all of it.
    """
    writer = ColumnWriter()
    for rows in blocks(len(kept), _rows_per_block(values)):
        with np.errstate(over="ignore"):  # beyond float32 is infinite; the doctor names it
            part = np.asarray(values[rows], dtype)[kept[rows]]
        writer.append(part if width is None else part[:, :width])
    return writer.finish()


def _following(observations: Any, kept: Array, next_known: Array, width: int) -> Array:
    """The observation one row later, float32, of each row that is kept; NaN where it is not known.

    Args:
      observations: [N, ..], numpy array or h5py data set.
      kept: [N] bool, rows that are read.
      next_known: [N] bool; False on the last one.
      width: of each row.
    """
    writer = ColumnWriter()
    for rows in blocks(len(kept), _rows_per_block(observations)):
        part = np.full((rows.stop - rows.start, width), np.nan, np.float32)
        later = observations[rows.start + 1 : rows.stop + 1]  # one fewer at the very end
        with np.errstate(over="ignore"):
            part[: len(later)] = np.asarray(later, np.float32)[:, :width]
        part[~next_known[rows]] = np.nan
        writer.append(part[kept[rows]])
    return writer.finish()


def _rows_per_block(values: Any) -> int | None:
    """Rows of a column to read at once: few where they are wide, whole chunks of an HDF5 file."""
    width = int(np.prod(values.shape[1:]))
    if width * values.dtype.itemsize <= _WIDE and not getattr(values, "chunks", None):
        return None
    rows = max(_BLOCK_BYTES // max(width * values.dtype.itemsize, 1), 1)
    chunk = values.chunks[0] if getattr(values, "chunks", None) else 1
    return max(rows // chunk, 1) * chunk
