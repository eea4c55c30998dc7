"""--dataset: whatever people hold, as Transitions."""

from __future__ import annotations

import pathlib

import h5py

from offline_tf.datasets import d4rl, download, episodes, made, minari, paths, rlds, tables
from offline_tf.types import TaskSpec, Transitions, UserError

FORMS = (
    "an HDF5 file with D4RL's keys, a Minari id or folder, a D4RL name (walker2d-medium-v2), "
    "tfds:NAME, a pickle of episodes, an npz archive, a CSV table"
)
_HDF5, _PICKLES = (".hdf5", ".h5", ".hdf"), (".pkl", ".pickle")


def load(name: str, task: TaskSpec) -> tuple[Transitions, str]:
    """Loads a data set by its path, id or name.

    Args:
      name: see FORMS.
      task: dimensions, names of CSV columns, and which ends are time limits.

    Returns:
      The transitions and a short name.

    Raises:
      UserError: there is no such data set, it is damaged, or it does not fit the task.
    """
    data, short = _read(name, task)
    if data.actions.shape[1] != task.action_dim:
        raise UserError(
            f"--dataset: {name} has actions of width {data.actions.shape[1]}, --env={task.name} has "
            f"{task.action_dim}; check --env"
        )
    return episodes.separate_time_limits(data, task), short


def _read(name: str, task: TaskSpec) -> tuple[Transitions, str]:
    path = pathlib.Path(name)
    if path.is_dir():
        found = minari.holds(path)
        if found is None:
            raise UserError(
                f"--dataset: expected a Minari folder with data/main_data.hdf5 at {path}, found none"
            )
        return minari.read(found, task.state_dim), path.name
    if not path.exists():
        if name.startswith(rlds.PREFIX):
            return rlds.read(name, task.state_dim), name.removeprefix(rlds.PREFIX)
        if download.is_name(name):
            return d4rl.read(download.find(name), task.state_dim), name
        if minari.is_id(name):
            return minari.read(minari.find(name), task.state_dim), name
        if not path.suffix:
            raise UserError(
                f"--dataset: expected {FORMS}, or one of {', '.join(made.KINDS)}, got {name!r}"
            )
        raise UserError(f"--dataset: expected a file at {path}, found none")
    return read_file(path, task), path.name


def read_file(path: pathlib.Path, task: TaskSpec) -> Transitions:
    """Reads a file by its ending.

    Raises:
      UserError: unknown ending, or the file is damaged.
    """
    suffix = path.suffix.lower()
    if suffix in _HDF5:
        try:
            with h5py.File(path, "r") as file:
                grouped = minari.is_minari(file)
        except Exception:  # damaged; the reader says how
            grouped = False
        return (minari if grouped else d4rl).read(path, task.state_dim)
    if suffix in _PICKLES:
        return paths.read(path, task.state_dim)
    if suffix == ".npz":
        return tables.read_npz(path, task.state_dim)
    if suffix == ".csv":
        return tables.read_csv(path, task)
    raise UserError(f"--dataset: expected {FORMS}, got {path}")
