"""From named columns to Transitions, whatever file the columns came from."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from absl import logging

from offline_tf.numerics.large_columns import (
    ColumnWriter,
    blocks,
    largest_resident,
    scratch_bytes,
    scratch_folder,
)
from offline_tf.numerics.size_limits import check_size
from offline_tf.types import Array, Transitions, UserError

REQUIRED = ("observations", "actions", "rewards", "terminals")
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
    columns: Mapping[str, Any], source: str, state_dim: int | None = None
) -> Transitions:
    """Makes Transitions of D4RL's columns: numpy arrays, h5py data sets, or what is sliced like them.

    Without next_observations, the next row's observation is taken inside an episode, and the last
    row of each episode is dropped, because its next observation is not known. Columns of shape (N, 1)
    and any numeric type are accepted. Data with neither timeouts nor any terminal are refused.

    Args:
      columns: by D4RL's names.
      source: what to name in errors.
      state_dim: S of the task, checked when given; 111-d Ant data are cut to the first 27.

    Raises:
      UserError: a column is missing, or shapes do not fit.
    """
    for key in REQUIRED:
        if key not in columns:
            raise UserError(
                f"--dataset: {source} lacks {key!r}; expected D4RL's keys observations, actions, "
                f"rewards, terminals, timeouts, got {', '.join(sorted(columns)) or 'none'}"
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
    terminals, timeouts = _end_flags(columns, source)
    has_next = np.ones(count, bool)
    next_column, rows_ahead = "next_observations", 0
    if next_column not in columns:
        has_next, terminals, timeouts = _without_last_rows(terminals, timeouts, source)
        next_column, rows_ahead = "observations", 1

    def read(name: str) -> Array:
        return _read(columns[name], DTYPES[name], has_next)

    next_values = columns[next_column]
    return Transitions(
        observations=_read(columns["observations"], np.float32, has_next, width),
        actions=read("actions"),
        rewards=read("rewards").reshape(-1),
        next_observations=_read(next_values, np.float32, has_next, width, rows_ahead),
        terminals=terminals[has_next],
        timeouts=timeouts[has_next],
        qpos=read("infos/qpos") if "infos/qpos" in columns else None,
        qvel=read("infos/qvel") if "infos/qvel" in columns else None,
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
    for name in (*REQUIRED, "next_observations", "timeouts", "infos/qpos", "infos/qvel"):
        if name not in columns:
            continue
        column_shape = getattr(columns[name], "shape", (0,))
        if column_shape[:1] != (count,):
            raise UserError(
                f"--dataset: {source} has {count} rows in observations but {column_shape[:1]} in "
                f"{name}; the file is damaged or mixes data sets"
            )
        if name in ("rewards", "terminals", "timeouts") and int(np.prod(column_shape)) != count:
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


def _end_flags(columns: Mapping[str, Any], source: str) -> tuple[Array, Array]:
    """Terminals and timeouts, each [N] bool.

    Raises:
      UserError: episodes cannot be told apart.
    """
    terminals = _whole(columns["terminals"], "terminals", source).reshape(-1)
    if "timeouts" in columns:
        return terminals, _whole(columns["timeouts"], "timeouts", source).reshape(-1)
    if not terminals.any():
        raise UserError(
            f"--dataset: {source} has no timeouts and no terminals, so episodes cannot be told "
            "apart; add a boolean column 'timeouts' that is true on each episode's last row"
        )
    return terminals, np.zeros(len(terminals), bool)


def _without_last_rows(
    terminals: Array, timeouts: Array, source: str
) -> tuple[Array, Array, Array]:
    """Leaves out the last row of each episode, whose next observation is not known.

    Args:
      terminals: [N] bool.
      timeouts: [N] bool.
      source: what to name in the error.

    Returns:
      has_next: [N] bool, rows that stay, as their next observation is known.
      terminals: [N] bool.
      timeouts: [N] bool, true too on rows that now end an episode.

    Raises:
      UserError: no row stays.
    """
    has_next = ~(terminals | timeouts)
    has_next[-1] = False
    # The row before a dropped one now ends its episode, at a cut.
    timeouts = timeouts | np.append(~has_next[1:], False)
    if terminals.any():
        logging.warning(
            "--dataset: %s has no next_observations, so its %d terminal rows are left out with "
            "their rewards, and Q goes on from the rows before as if nothing had ended; add them "
            "(CSV: next_NAME) where falls or trips are to be learned",
            source,
            int(terminals.sum()),
        )
    if not has_next.any():
        raise UserError(
            f"--dataset: {source} has no next_observations, and no episode of two rows or more to "
            "take them from; add the column"
        )
    return has_next, terminals & has_next, timeouts


def _read(
    values: Any, dtype: Any, selected: Array, width: int | None = None, rows_ahead: int = 0
) -> Array:
    """Reads a column by blocks.

    Args:
      values: [N, ...], numpy array or h5py data set.
      dtype: of the result.
      selected: [N] bool, rows that are read.
      width: of each row; None: all of it.
      rows_ahead: how many rows later each value stands.
    """
    writer = ColumnWriter()
    for rows in blocks(len(selected), _rows_per_block(values)):
        part = values[rows.start + rows_ahead : rows.stop + rows_ahead]
        used = selected[rows][: len(part)]  # the very last row has none ahead, and is not selected
        with np.errstate(over="ignore"):  # beyond float32 is infinite; the doctor names it
            part = np.asarray(part, dtype)[used]
        writer.append(part if width is None else part[:, :width])
    return writer.finish()


def _whole(values: Any, name: str, source: str) -> Array:
    """A column of flags."""
    parts = []
    for rows in blocks(len(values), _rows_per_block(values)):
        part = np.asarray(values[rows])
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            raise UserError(f"--dataset: {source}: expected flags in {name!r}, got NaN or infinity")
        parts.append(np.asarray(part, DTYPES[name]))
    return np.concatenate(parts)


def _rows_per_block(values: Any) -> int | None:
    """Rows of a column to read at once: few where they are wide, whole chunks of an HDF5 file."""
    width = int(np.prod(values.shape[1:]))
    if width * values.dtype.itemsize <= _WIDE and not getattr(values, "chunks", None):
        return None
    rows = max(_BLOCK_BYTES // max(width * values.dtype.itemsize, 1), 1)
    chunk = values.chunks[0] if getattr(values, "chunks", None) else 1
    return max(rows // chunk, 1) * chunk
