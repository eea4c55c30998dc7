"""From named columns to Transitions, whatever file the columns came from."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from offline_tf.types import Array, Transitions, UserError

REQUIRED = ("observations", "actions", "rewards", "terminals")
_ANT_WITH_CONTACT_FORCES, _ANT = 111, 27


def largest_bytes() -> int:
    """Half of this machine's memory: what a reader agrees to unpack."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def check_size(total: int, source: str, flag: str = "dataset") -> None:
    """Refuses data that would not fit, before any of it is unpacked.

    Args:
      total: bytes after unpacking.
      source, flag: what to name in the error.

    Raises:
      UserError: more than `largest_bytes`.
    """
    if total > largest_bytes():
        raise UserError(
            f"--{flag}: {source} would take {total / 2**30:.1f} GiB of memory, this machine allows "
            f"{largest_bytes() / 2**30:.1f} GiB; split it, or convert a part of it"
        )


def unreadable(path: pathlib.Path, form: str, error: Exception) -> str:
    """The one line that says why a damaged file was not read."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return f"--dataset: {path} is no readable {form} ({reason})"


def from_columns(
    columns: Mapping[str, Any], source: str, state_dim: int | None = None
) -> Transitions:
    """Makes Transitions of D4RL's columns (numpy arrays or h5py data sets).

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

    def column(name: str, dtype: Any) -> Array:
        values = columns[name][()]
        if getattr(values, "dtype", np.dtype(object)).kind not in "biuf":
            raise UserError(f"--dataset: {source}: expected numbers in {name!r}, got other values")
        with np.errstate(over="ignore"):  # beyond float32 is infinite; the doctor names it
            return np.asarray(values, dtype)

    shape: tuple[int, ...] = getattr(columns["observations"], "shape", ())
    if len(shape) != 2 or not shape[0]:
        raise UserError(
            f"--dataset: {source}: expected observations of shape (rows, width), got {shape}"
        )
    count = shape[0]
    for name in (*REQUIRED, "next_observations", "timeouts", "infos/qpos", "infos/qvel"):
        whole = getattr(columns[name], "shape", (0,)) if name in columns else (count,)
        if whole[:1] != (count,):
            raise UserError(
                f"--dataset: {source} has {count} rows in observations but {whole[:1]} in {name}; "
                "the file is damaged or mixes data sets"
            )
        if name in ("rewards", "terminals", "timeouts") and int(np.prod(whole)) != count:
            raise UserError(
                f"--dataset: {source}: expected one number per row in {name}, got shape {whole}"
            )
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
    observations = column("observations", np.float32)
    width = state_dim or observations.shape[1]
    if observations.shape[1] not in (width, _ANT_WITH_CONTACT_FORCES if width == _ANT else width):
        raise UserError(
            f"--dataset: {source} has observations of width {observations.shape[1]}, "
            f"this task has {width}; check --env"
        )
    observations = np.ascontiguousarray(observations[:, :width])
    terminals = column("terminals", bool).reshape(-1)
    timeouts = column("timeouts", bool).reshape(-1) if "timeouts" in columns else None
    if timeouts is None:
        if not terminals.any():
            raise UserError(
                f"--dataset: {source} has no timeouts and no terminals, so episodes cannot be told "
                "apart; add a boolean column 'timeouts' that is true on each episode's last row"
            )
        timeouts = np.zeros(count, bool)
    keep = np.ones(count, bool)
    if "next_observations" in columns:
        next_observations = column("next_observations", np.float32)[:, :width]
    else:
        next_observations = np.concatenate([observations[1:], observations[-1:]])
        keep = ~(terminals | timeouts)
        keep[-1] = False
        # The row before a dropped one now ends its episode, at a cut.
        timeouts = timeouts | np.append(~keep[1:], False)
        terminals = terminals & keep
    optional = {
        name: column(f"infos/{name}", np.float64)[keep] if f"infos/{name}" in columns else None
        for name in ("qpos", "qvel")
    }
    return Transitions(
        observations=observations[keep],
        actions=column("actions", np.float32)[keep],
        rewards=column("rewards", np.float32).reshape(-1)[keep],
        next_observations=np.ascontiguousarray(next_observations)[keep],
        terminals=terminals[keep],
        timeouts=timeouts[keep],
        **optional,
    )
