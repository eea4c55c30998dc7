"""Minari's data sets (HDF5 form), read with h5py; the minari package is needed for downloads only."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import h5py
import numpy as np

from offline_tf import install_hints
from offline_tf.datasets.formats import columns, d4rl, episodes
from offline_tf.numerics import large_columns
from offline_tf.numerics.size_limits import check_size
from offline_tf.run_folder import files
from offline_tf.types import Array, TaskSpec, Transitions, UserError

_MAIN = pathlib.Path("data", "main_data.hdf5")
_ID = re.compile(r"[\w.-]+(/[\w.-]+)*-v\d+")


def root() -> pathlib.Path:
    """Minari's folder: $MINARI_DATASETS_PATH, else ~/.minari/datasets."""
    return pathlib.Path(
        os.environ.get("MINARI_DATASETS_PATH") or pathlib.Path.home() / ".minari" / "datasets"
    )


def is_id(name: str) -> bool:
    """Whether a name has the form of Minari's ids, such as mujoco/hopper/medium-v0."""
    return "/" in name and _ID.fullmatch(name) is not None


def find(name: str) -> pathlib.Path:
    """Returns the file of a data set's id; downloads it where the minari package is installed.

    Raises:
      UserError: it is not there and cannot be downloaded.
    """
    path = root() / name / _MAIN
    if path.exists():
        return path
    if importlib.util.find_spec("minari") is None:
        raise UserError(
            f"--dataset: {name} is not in {root()}; "
            f"{install_hints.install('requirements-formats.txt')} and try again, or give the folder "
            "of a copy"
        )
    import minari

    try:
        minari.download_dataset(name)
    except Exception as error:  # minari raises what its network layer raises
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--dataset: minari could not download {name}: {reason}") from None
    if not path.exists():
        raise UserError(
            f"--dataset: {name} was downloaded in a form other than HDF5; convert it with minari"
        )
    return path


def holds(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the HDF5 file in a data set's folder, or None."""
    candidates = [folder / _MAIN, folder / _MAIN.name]
    return next((path for path in candidates if path.exists()), None)


def is_minari(file: h5py.File) -> bool:
    """Whether an open HDF5 file has Minari's groups."""
    return "episode_0" in file or (len(file) > 0 and all(n.startswith("episode_") for n in file))


def read(path: pathlib.Path, state_dim: int | None = None, keys: Sequence[str] = ()) -> Transitions:
    """Reads main_data.hdf5: groups episode_N with T + 1 observations and T of the rest.

    Args:
      path: of the file.
      state_dim: S of the task, checked when given.
      keys: where observations are a dict, those of its arrays that are joined, in this order.

    Raises:
      UserError: the file is damaged, or observations are a dict without such keys.
    """
    try:
        with h5py.File(path, "r") as file:
            return episodes.join(_episodes(file, path), str(path), state_dim, keys)
    except UserError:
        raise
    except Exception as error:  # h5py raises many kinds for a damaged file
        raise UserError(columns.unreadable(path, "HDF5 file", error)) from None


def _episodes(file: h5py.File, path: pathlib.Path) -> Iterator[dict[str, Any]]:
    names = [name for name in file if re.fullmatch(r"episode_\d+", name)]
    for name in sorted(names, key=lambda n: int(n.rpartition("_")[2])):
        if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
            raise UserError(f"--dataset: {path}: {name} lies in another file; refused")
        group = file[name]
        datasets = d4rl.hdf5_columns(group, f"{path}, {name}")
        check_size(sum(column.nbytes for column in datasets.values()), f"{path}, {name}")
        for key in ("qpos", "qvel"):
            # T + 1 of them, like the observations.
            if f"infos/{key}" in datasets:
                datasets[f"infos/{key}"] = datasets[f"infos/{key}"][: len(group["rewards"])]
        arrays = {key: values[()] for key, values in datasets.items()}
        if isinstance(group.get("observations"), h5py.Group):
            where = f"{path}, {name}"  # read where they are joined
            arrays["observations"] = d4rl.hdf5_columns(group["observations"], where)
        yield arrays


def write(folder: pathlib.Path, data: Transitions, task: TaskSpec, dataset_id: str) -> None:
    """Writes a data set that the minari package loads; the folder appears when it is complete.

    A last episode that is open comes back as cut there. infos/qpos and infos/qvel have no last row,
    as it is not in the data: it is NaN. So is the last observation of an episode that ended in a
    terminal state that was not recorded.

    Args:
      folder: of the data set, such as ~/.minari/datasets/plant/log-v0.
      data: what to write.
      task: bounds of the actions.
      dataset_id: such as plant/log-v0.

    Raises:
      UserError: the folder exists, or a next observation is not the following row's observation,
        which this format cannot hold.
    """
    if folder.exists():
        raise UserError(f"--output: {folder} exists; it is not replaced")
    inside = ~(data.terminals | data.timeouts)[:-1]
    jumps = inside & large_columns.derive(
        lambda promised, following: (promised != following).any(axis=1),
        data.next_observations[:-1],
        data.observations[1:],
    )
    if jumps.any():
        raise UserError(
            f"--output: in {int(jumps.sum())} rows next_observations is not the following row's "
            "observation (the first is row "
            f"{int(np.argmax(jumps))}); Minari's format cannot hold that, write D4RL's instead"
        )
    columns_written = [data.observations, data.actions, data.rewards, data.qpos, data.qvel]
    files.check_space(
        folder, sum(values.nbytes for values in columns_written if values is not None)
    )
    with files.whole(folder) as partial:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "data").mkdir(parents=True)
        with h5py.File(partial / _MAIN, "w") as file:
            for number, rows in enumerate(data.episodes()):
                group = file.create_group(f"episode_{number}")
                last = rows.stop - 1
                group["observations"] = np.concatenate(
                    [data.observations[rows], data.next_observations[last : last + 1]]
                )
                group["actions"] = data.actions[rows]
                group["rewards"] = data.rewards[rows]
                group["terminations"] = data.terminals[rows]
                group["truncations"] = data.timeouts[rows]
                for name in ("qpos", "qvel"):
                    values = getattr(data, name)
                    if values is not None:
                        end = np.full_like(values[:1], np.nan)
                        group[f"infos/{name}"] = np.concatenate([values[rows], end])
                group.attrs["id"] = number
                group.attrs["total_steps"] = rows.stop - rows.start
        size = (partial / _MAIN).stat().st_size / 1e6
        metadata = {
            "dataset_id": dataset_id,
            "data_format": "hdf5",
            "minari_version": "0.5.4",
            "total_episodes": len(data.episode_bounds()),
            "total_steps": len(data),
            "dataset_size": round(size, 1),
            "observation_space": _box(
                np.full(task.state_dim, -np.inf), np.full(task.state_dim, np.inf)
            ),
            "action_space": _box(task.action_low, task.action_high),
        }
        (partial / "data" / "metadata.json").write_text(json.dumps(metadata, indent=1))


def _box(low: Array, high: Array) -> str:
    """A Gymnasium Box as Minari writes it."""
    return json.dumps(
        {
            "type": "Box",
            "dtype": "float32",
            "shape": list(low.shape),
            "low": low.tolist(),
            "high": high.tolist(),
        }
    )
