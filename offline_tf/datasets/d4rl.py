"""D4RL's HDF5 layout: one array per column, all episodes one after the other."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from typing import Any

import h5py
import numpy as np

from offline_tf.types import Array, Transitions, UserError

_REQUIRED = ("observations", "actions", "rewards", "terminals")


def write(
    path: pathlib.Path,
    transitions: Transitions,
    extra: dict[str, Array] | None = None,
    attributes: dict[str, Any] | None = None,
) -> None:
    """Writes transitions under D4RL's keys; the file appears only when it is complete.

    Args:
      path: of the file.
      transitions: what to write.
      extra: further columns [N, ...], such as "infos/action_log_probs".
      attributes: of the file: how it was made.
    """
    columns: dict[str, Array | None] = {
        "observations": transitions.observations,
        "actions": transitions.actions,
        "rewards": transitions.rewards,
        "next_observations": transitions.next_observations,
        "terminals": transitions.terminals,
        "timeouts": transitions.timeouts,
        "infos/qpos": transitions.qpos,
        "infos/qvel": transitions.qvel,
        **(extra or {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with h5py.File(partial, "w", track_order=True) as file:
        for name, values in columns.items():
            if values is not None:
                file.create_dataset(name, data=values)
        for name, value in (attributes or {}).items():
            file.attrs[name] = value
    partial.replace(path)


def read(path: pathlib.Path, state_dim: int | None = None) -> Transitions:
    """Reads a D4RL file.

    Without next_observations, the next row's observation is taken inside an episode, and the last
    row of each episode is dropped, because its next observation is not in the file. Columns of shape
    (N, 1) and float64 are accepted. A file with neither timeouts nor any terminal is refused.

    Args:
      path: of the file.
      state_dim: S of the task, checked when given; 111-d Ant files are cut to the first 27.

    Raises:
      UserError: no such file, a key is missing, or shapes do not fit.
    """
    if not path.exists():
        raise UserError(f"--dataset: expected an HDF5 file at {path}, found none")
    try:
        with h5py.File(path, "r") as file:
            return _read_open(file, path, state_dim)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--dataset: {path} is no readable HDF5 file ({reason})") from None


def _read_open(file: h5py.File, path: pathlib.Path, state_dim: int | None) -> Transitions:
    for key in _REQUIRED:
        if key not in file:
            raise UserError(
                f"--dataset: {path} lacks {key!r}; expected D4RL's keys observations, actions, "
                f"rewards, terminals, timeouts, got {', '.join(sorted(file))}"
            )

    def column(name: str, dtype: Any) -> Array:
        return np.asarray(file[name][()], dtype)

    shape: tuple[int, ...] = getattr(file["observations"], "shape", ())
    if len(shape) != 2 or not shape[0]:
        raise UserError(
            f"--dataset: {path}: expected observations of shape (rows, width), got {shape}"
        )
    count = shape[0]
    for name in (*_REQUIRED, "next_observations", "timeouts", "infos/qpos", "infos/qvel"):
        rows = getattr(file[name], "shape", (0,))[:1] if name in file else (count,)
        if rows != (count,):
            raise UserError(
                f"--dataset: {path} has {count} rows in observations but {rows} in {name}; "
                "the file is damaged or mixes data sets"
            )
    observations = column("observations", np.float32)
    width = state_dim or observations.shape[1]
    if observations.shape[1] not in (width, 111 if width == 27 else width):
        raise UserError(
            f"--dataset: {path} has observations of width {observations.shape[1]}, "
            f"this task has {width}; check --env"
        )
    observations = np.ascontiguousarray(observations[:, :width])
    terminals = column("terminals", bool).reshape(-1)
    timeouts = column("timeouts", bool).reshape(-1) if "timeouts" in file else None
    if timeouts is None:
        if not terminals.any():
            raise UserError(
                f"--dataset: {path} has no timeouts and no terminals, so episodes cannot be told "
                "apart; add a boolean column 'timeouts' that is true on each episode's last row"
            )
        timeouts = np.zeros(count, bool)
    keep = np.ones(count, bool)
    if "next_observations" in file:
        next_observations = column("next_observations", np.float32)[:, :width]
    else:
        next_observations = np.concatenate([observations[1:], observations[-1:]])
        keep = ~(terminals | timeouts)
        keep[-1] = False
        # The row before a dropped one now ends its episode, at a cut.
        timeouts = timeouts | np.append(~keep[1:], False)
        terminals = terminals & keep
    optional = {
        name: np.asarray(file[f"infos/{name}"][()], np.float64)[keep]
        if f"infos/{name}" in file
        else None
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


def content_hash(transitions: Transitions) -> str:
    """Returns a short hash of everything that training reads."""
    digest = hashlib.blake2b(digest_size=8)
    for field in dataclasses.fields(transitions):
        array = getattr(transitions, field.name)
        digest.update(field.name.encode())
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
