"""--dataset: whatever people hold, as Transitions."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

import h5py
import numpy as np

from offline_tf.datasets.formats import (
    csv_tables,
    d4rl,
    d4rl_download,
    episodes,
    minari,
    pickled_episodes,
    rlds,
)
from offline_tf.datasets.names import FORMS, KINDS
from offline_tf.datasets.simulated import generated
from offline_tf.types import Array, TaskSpec, Transitions, UserError

_PAIRS = 5000
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


def check(name: str, kinds: tuple[str, ...] = ()) -> None:
    """Checks, without reading or making anything, that a data set could be there.

    Args:
      name: of the data set.
      kinds: which of names.KINDS the command makes.

    Raises:
      UserError: it cannot: no such file, and no name that somebody else's data have.
    """
    path = pathlib.Path(name)
    elsewhere = name.startswith(rlds.PREFIX) or d4rl_download.is_name(name) or minari.is_id(name)
    if name in kinds or path.exists() or elsewhere:
        return
    if not path.suffix:
        ours = f", or one of {', '.join(kinds)}" if kinds else ""
        raise UserError(f"--dataset: expected {FORMS}{ours}, got {name!r}")
    raise UserError(f"--dataset: expected a file at {path}, found none")


def _read(name: str, task: TaskSpec) -> tuple[Transitions, str]:
    path = pathlib.Path(name)
    if path.is_dir():
        main_file = minari.holds(path)
        if main_file is None:
            raise UserError(
                f"--dataset: expected a Minari folder with data/main_data.hdf5 at {path}, found none"
            )
        return minari.read(main_file, task.state_dim), path.name
    if not path.exists():
        if name.startswith(rlds.PREFIX):
            return rlds.read(name, task.state_dim), name.removeprefix(rlds.PREFIX)
        if d4rl_download.is_name(name):
            return d4rl.read(d4rl_download.find(name), task.state_dim), name
        if minari.is_id(name):
            return minari.read(minari.find(name), task.state_dim), name
        check(name)
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
        return pickled_episodes.read(path, task.state_dim)
    if suffix == ".npz":
        return csv_tables.read_npz(path, task.state_dim)
    if suffix == ".csv":
        return csv_tables.read_csv(path, task)
    raise UserError(f"--dataset: expected {FORMS}, got {path}")


def load_named(
    name: str,
    *,
    task: TaskSpec,
    physics: str,
    steps: int,
    seed: int,
    data_dir: str,
    threads: int,
) -> tuple[Transitions, str]:
    """Loads one of names.KINDS, made here where it is missing, or whatever else `sources` can read.

    Args:
      name: of the data.
      task, physics, steps, seed, data_dir, threads: see `generated.load_or_make_kind`.
    """
    if name in KINDS:
        return generated.load_or_make_kind(
            task,
            physics=physics,
            kind=name,
            num_steps=steps,
            seed=seed,
            data_dir=data_dir,
            threads=threads,
        )
    check(name, KINDS)
    return load(name, task)


def pairs_of(
    names: Sequence[str],
    *,
    task: TaskSpec,
    physics: str,
    steps: int,
    seed: int,
    data_dir: str,
    threads: int,
    states_of: Callable[[Transitions], Array] = lambda data: data.observations,
) -> dict[str, tuple[Array, Array]]:
    """Data set -> (states, actions) of evenly spaced rows, to hold beside other data.

    Args:
      names: of data sets.
      task, physics, steps, seed, data_dir, threads: see `generated.load_or_make_kind`.
      states_of: what the models see of a data set, [N, S].
    """
    pairs = {}
    for name in names:
        data, title = load_named(
            name,
            task=task,
            physics=physics,
            steps=steps,
            seed=seed,
            data_dir=data_dir,
            threads=threads,
        )
        rows = np.linspace(0, len(data) - 1, min(len(data), _PAIRS)).astype(np.int64)
        pairs[title if title not in pairs else name] = (states_of(data)[rows], data.actions[rows])
    return pairs
