"""--dataset: whatever people hold, as Transitions."""

from __future__ import annotations

import glob
import pathlib
from collections.abc import Callable, Sequence

import h5py
import numpy as np

from offline_tf.datasets.formats import (
    d4rl,
    d4rl_download,
    episodes,
    lerobot,
    minari,
    npz,
    pickled_episodes,
    plant_logs,
    rlds,
    table_rows,
    tables,
)
from offline_tf.datasets.names import AS_NAMED, FORMS, KINDS, SAC_KINDS, Reading
from offline_tf.datasets.simulated import generated, sac_kinds
from offline_tf.types import Array, TaskSpec, Transitions, UserError

_PAIRS = 5000
_NOTES = (".txt", ".dat")  # in a folder of tables they are something else
_HDF5, _PICKLES = (".hdf5", ".h5", ".hdf"), (".pkl", ".pickle")


def load(name: str, task: TaskSpec, reading: Reading = AS_NAMED) -> tuple[Transitions, str]:
    """Loads a data set by its path, id or name.

    Args:
      name: see FORMS.
      task: dimensions, names of a table's columns, and which ends are time limits.
      reading: what the file does not say of itself.

    Returns:
      The transitions and a short name.

    Raises:
      UserError: there is no such data set, it is damaged, or it does not fit the task.
    """
    data, short = _read(name, task, reading)
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
    if name in kinds or path.exists() or elsewhere or _matches(name):
        return
    if not path.suffix:
        ours = f", or one of {', '.join(kinds)}" if kinds else ""
        raise UserError(f"--dataset: expected {FORMS}{ours}, got {name!r}")
    raise UserError(f"--dataset: expected a file at {path}, found none")


def check_named(name: str, *, task: TaskSpec, physics: str, data_dir: str) -> None:
    """Checks, without reading or making anything, that `load_named` could find or make a data set.

    Args:
      name: of the data.
      task, physics, data_dir: see `load_named`.

    Raises:
      UserError: it cannot.
    """
    if name in SAC_KINDS:
        sac_kinds.check(task, physics=physics, kind=name, data_dir=data_dir)
    elif name in KINDS:
        generated.check(task, kind=name)
    else:
        check(name, KINDS)


def tables_of(name: str) -> list[pathlib.Path]:
    """The tables that a data set's name stands for, in their order; none where it is no table."""
    path = pathlib.Path(name)
    if path.is_dir():
        files = [file for file in path.iterdir() if tables.is_table(file)]
        return sorted(file for file in files if file.suffix.lower() not in _NOTES)
    if path.exists():
        return [path] if tables.is_table(path) else []
    return _matches(name)


def _matches(name: str) -> list[pathlib.Path]:
    """Tables that a pattern such as logs/*.csv names, in the order of their names."""
    if not any(sign in name for sign in "*?["):
        return []
    return [path for path in map(pathlib.Path, sorted(glob.glob(name))) if tables.is_table(path)]


def _read(name: str, task: TaskSpec, reading: Reading) -> tuple[Transitions, str]:
    path = pathlib.Path(name)
    if path.is_dir():
        return _read_folder(path, task, reading), path.name
    if not path.exists():
        width, keys = task.state_dim, reading.observation_keys
        if name.startswith(rlds.PREFIX):
            return rlds.read(name, width, keys), name.removeprefix(rlds.PREFIX)
        if d4rl_download.is_name(name):
            return d4rl.read(d4rl_download.find(name), width), name
        if minari.is_id(name):
            return minari.read(minari.find(name), width, keys), name
        if paths := _matches(name):
            return _read_tables(paths, task, reading), paths[0].parent.name
        check(name)
    return read_file(path, task, reading), path.name


def _read_folder(path: pathlib.Path, task: TaskSpec, reading: Reading) -> Transitions:
    main_file = minari.holds(path)
    if main_file is not None:
        return minari.read(main_file, task.state_dim, reading.observation_keys)
    if lerobot.holds(path):
        return lerobot.read(path, reading.observation_keys, task.state_dim)
    if paths := tables_of(str(path)):
        return _read_tables(paths, task, reading)
    raise UserError(
        f"--dataset: expected a folder of Minari (data/main_data.hdf5), of LeRobot (meta/info.json), "
        f"or of tables at {path}, found none of them"
    )


def _read_tables(paths: Sequence[pathlib.Path], task: TaskSpec, reading: Reading) -> Transitions:
    if task.log is not None:
        return plant_logs.read(paths, task)
    return table_rows.read(paths, task, reading.columns)


def read_file(path: pathlib.Path, task: TaskSpec, reading: Reading = AS_NAMED) -> Transitions:
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
        if grouped:
            return minari.read(path, task.state_dim, reading.observation_keys)
        return d4rl.read(path, task.state_dim)
    if suffix in _PICKLES:
        return pickled_episodes.read(path, task.state_dim, reading.observation_keys)
    if suffix == ".npz":
        return npz.read(path, task.state_dim)
    if tables.is_table(path):
        return _read_tables([path], task, reading)
    raise UserError(f"--dataset: expected {FORMS}, got {path}")


def count_rows(path: pathlib.Path) -> int | None:
    """Rows of a file as its header tells them, unread.

    Returns:
      None where no header tells them, or the file is damaged: the reader says how.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".npz":
            return npz.count(path)
        if suffix in _HDF5:
            return d4rl.count(path)
    except Exception:  # h5py, zipfile and numpy raise many kinds
        pass
    return None


def count_lines(table: pathlib.Path) -> int:
    """Rows of a table, under its header.

    Raises:
      UserError: it cannot be read.
    """
    return tables.Table(table).count_lines()


def load_named(
    name: str,
    *,
    task: TaskSpec,
    physics: str,
    steps: int,
    seed: int,
    data_dir: str,
    threads: int,
    reading: Reading = AS_NAMED,
) -> tuple[Transitions, str]:
    """Loads one of names.KINDS, made here where it is missing, or whatever else `sources` can read.

    Args:
      name: of the data.
      task, physics, steps, seed, data_dir, threads: see `generated.load_or_make_kind`.
      reading: what a file does not say of itself.

    Returns:
      The transitions and a short name.

    Raises:
      UserError: there is no such data set and none can be made, it is damaged, or it does not fit.
    """
    if name in KINDS:
        of_a_kind = sac_kinds if name in SAC_KINDS else generated
        return of_a_kind.load_or_make_kind(
            task,
            physics=physics,
            kind=name,
            num_steps=steps,
            seed=seed,
            data_dir=data_dir,
            threads=threads,
        )
    check(name, KINDS)
    return load(name, task, reading)


def pairs_of(
    names: Sequence[str],
    *,
    task: TaskSpec,
    physics: str,
    steps: int,
    seed: int,
    data_dir: str,
    threads: int,
    reading: Reading = AS_NAMED,
    states_of: Callable[[Transitions], Array] = lambda data: data.observations,
) -> dict[str, tuple[Array, Array]]:
    """Data set -> (states, actions) of evenly spaced rows, to hold beside other data.

    Args:
      names: of data sets.
      task, physics, steps, seed, data_dir, threads: see `generated.load_or_make_kind`.
      reading: what files do not say of themselves.
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
            reading=reading,
        )
        rows = np.linspace(0, len(data) - 1, min(len(data), _PAIRS)).astype(np.int64)
        pairs[title if title not in pairs else name] = (states_of(data)[rows], data.actions[rows])
    return pairs
