"""D4RL's HDF5 layout: one array per column, all episodes one after the other."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

from offline_tf.datasets.formats import columns, synonyms
from offline_tf.run_folder import files
from offline_tf.types import Array, Transitions, UserError

_ABANDONED_SECONDS = 3600.0


def write(
    path: pathlib.Path,
    transitions: Transitions,
    extra: dict[str, Array] | None = None,
    attributes: dict[str, Any] | None = None,
    left_out: Sequence[str] = (),
) -> None:
    """Writes transitions under D4RL's keys; the file appears only when it is complete.

    Args:
      path: of the file.
      transitions: what to write.
      extra: further columns [N, ...], such as "infos/action_log_probs".
      attributes: of the file: how it was made.
      left_out: columns that are not written, as older files lack "next_observations".
    """
    values_by_name: dict[str, Array | None] = {
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
    written = {
        name: v for name, v in values_by_name.items() if v is not None and name not in left_out
    }
    files.check_space(path, sum(values.nbytes for values in written.values()))
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
        if (
            time.time() - leftover.stat().st_mtime > _ABANDONED_SECONDS
        ):  # by a process that was killed
            leftover.unlink(missing_ok=True)
    # Another process may be writing the same file: whoever is last leaves its own.
    with (
        files.whole(path, f".{os.getpid()}.partial") as partial,
        h5py.File(partial, "w", track_order=True) as file,
    ):
        for name, values in written.items():
            file.create_dataset(name, data=values)
        for name, value in (attributes or {}).items():
            file.attrs[name] = value


def count(path: pathlib.Path) -> int:
    """Rows of a file's actions.

    Raises:
      OSError, UserError: it is damaged; KeyError: it has none.
    """
    with h5py.File(path, "r") as file:
        return len(synonyms.renamed(hdf5_columns(file, str(path)))["actions"])


def read(path: pathlib.Path, state_dim: int | None = None) -> Transitions:
    """Reads a D4RL file; see `columns.from_columns`.

    Args:
      path: of the file.
      state_dim: S of the task, checked when given.

    Raises:
      UserError: no such file, a key is missing, shapes do not fit, or it would not fit on the disk.
    """
    if not path.exists():
        raise UserError(f"--dataset: expected an HDF5 file at {path}, found none")
    try:
        with h5py.File(path, "r") as file:
            datasets = hdf5_columns(file, str(path))
            synonyms.tell(datasets, str(path))
            named = synonyms.renamed(datasets)
            return columns.from_columns(named or datasets, str(path), state_dim)
    except UserError:
        raise
    except Exception as error:  # h5py raises many kinds for a damaged file
        raise UserError(columns.unreadable(path, "HDF5 file", error)) from None


def hdf5_columns(group: h5py.Group, source: str) -> dict[str, h5py.Dataset]:
    """Returns the data sets of a group and of its "infos", unread.

    Raises:
      UserError: a data set lies in another file.
    """
    datasets: dict[str, h5py.Dataset] = {}
    for prefix, part in (("", group), ("infos/", group.get("infos"))):
        for name in part if isinstance(part, h5py.Group) else ():
            # A link may point into any file of this machine.
            if isinstance(part.get(name, getlink=True), h5py.ExternalLink):
                raise UserError(
                    f"--dataset: {source}: {prefix}{name} lies in another file; refused"
                )
            column = part[name]
            if isinstance(column, h5py.Dataset):
                if column.external or column.is_virtual:
                    raise UserError(
                        f"--dataset: {source}: {prefix}{name} lies in another file; refused"
                    )
                datasets[prefix + name] = column
    return datasets


def content_hash(transitions: Transitions) -> str:
    """Returns a short hash of everything that training reads."""
    digest = hashlib.blake2b(digest_size=8)
    for field in dataclasses.fields(transitions):
        array = getattr(transitions, field.name)
        digest.update(field.name.encode())
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
