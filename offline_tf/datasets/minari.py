"""Minari's data sets (HDF5 form), read with h5py; the minari package is needed for downloads only."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
from collections.abc import Iterator

import h5py

from offline_tf.datasets import columns, d4rl, episodes
from offline_tf.types import Array, Transitions, UserError

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
            f"--dataset: {name} is not in {root()}; pip install minari and run "
            f"`minari download {name}`, or give the folder of a copy"
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
    found = [folder / _MAIN, folder / _MAIN.name]
    return next((path for path in found if path.exists()), None)


def is_minari(file: h5py.File) -> bool:
    """Whether an open HDF5 file has Minari's groups."""
    return "episode_0" in file or (len(file) > 0 and all(n.startswith("episode_") for n in file))


def read(path: pathlib.Path, state_dim: int | None = None) -> Transitions:
    """Reads main_data.hdf5: groups episode_N with T + 1 observations and T of the rest.

    Raises:
      UserError: the file is damaged, or observations are not one array per episode.
    """
    try:
        with h5py.File(path, "r") as file:
            return episodes.join(_episodes(file, path), str(path), state_dim)
    except UserError:
        raise
    except Exception as error:  # h5py raises many kinds for a damaged file
        raise UserError(columns.unreadable(path, "HDF5 file", error)) from None


def _episodes(file: h5py.File, path: pathlib.Path) -> Iterator[dict[str, Array]]:
    names = [name for name in file if re.fullmatch(r"episode_\d+", name)]
    total = 0
    for name in sorted(names, key=lambda n: int(n.rpartition("_")[2])):
        if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
            raise UserError(f"--dataset: {path}: {name} lies in another file; refused")
        group = file[name]
        if isinstance(group, h5py.Group) and isinstance(group.get("observations"), h5py.Group):
            parts = ", ".join(group["observations"])
            raise UserError(
                f"--dataset: {path}: observations are a dict ({parts}); expected one array. Flatten "
                "them with minari first"
            )
        found = d4rl.hdf5_columns(group, f"{path}, {name}")
        total += sum(column.nbytes for column in found.values())
        columns.check_size(total, str(path))
        for key in ("qpos", "qvel"):
            # T + 1 of them, like the observations.
            if f"infos/{key}" in found:
                found[f"infos/{key}"] = found[f"infos/{key}"][: len(group["rewards"])]
        yield {key: values[()] for key, values in found.items()}
