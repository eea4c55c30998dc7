"""TensorFlow checkpoints in a folder: those that are there, whatever TensorFlow's list says.

TensorFlow keeps a list of a folder's checkpoints in a text file, FOLDER/checkpoint. A power cut may
damage it, and one from a stranger may name files elsewhere, which a manager would then delete.
"""

from __future__ import annotations

import pathlib
import re

import tensorflow as tf

_LIST = "checkpoint"
_NAME = re.compile(r"ckpt-(\d{1,18})")
# What TensorFlow raises where bytes are wrong. AssertionError: variables are missing.
# MemoryError: an index that promises more than there is.
DAMAGED = (
    tf.errors.OpError,
    IndexError,
    ValueError,
    KeyError,
    AssertionError,
    TypeError,
    MemoryError,
)


def reason(error: Exception) -> str:
    """The first line of an error, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def in_folder(folder: pathlib.Path) -> list[str]:
    """Paths of checkpoints, as TensorFlow wants them; the newest (the highest number) first."""
    found = {}
    for path in folder.glob("*.index"):
        if match := _NAME.fullmatch(path.stem):
            found[int(match[1])] = str(path.with_suffix(""))
    return [found[number] for number in sorted(found, reverse=True)]


def manager(
    checkpoint: tf.train.Checkpoint, folder: pathlib.Path, keep: int
) -> tf.train.CheckpointManager:
    """A manager that writes to a folder, and deletes nothing but what lies in it.

    Args:
      checkpoint: what it saves.
      folder: new, or with checkpoints of the same.
      keep: how many stay.
    """
    names = [pathlib.Path(path).name for path in reversed(in_folder(folder))]
    if sorted(_listed(folder)) != sorted(names):
        if names:
            tf.compat.v1.train.update_checkpoint_state(str(folder), names[-1], names)
        else:
            (folder / _LIST).unlink(missing_ok=True)
    return tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=keep)


def _listed(folder: pathlib.Path) -> list[str]:
    """Names on TensorFlow's list; none where there is no list or it is damaged."""
    try:
        state = tf.train.get_checkpoint_state(str(folder))
    except ValueError:  # bytes that are no text, or no paths
        return []
    if state is None:
        return []
    paths = [pathlib.Path(path) for path in state.all_model_checkpoint_paths]
    return [path.name if path.parent == folder else str(path) for path in paths]
