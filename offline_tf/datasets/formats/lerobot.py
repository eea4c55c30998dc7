"""LeRobot's data sets: a folder with meta/info.json and Parquet files, read without their pictures."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import logging

from offline_tf.datasets.formats import columns, table_rows
from offline_tf.datasets.formats.tables import Table
from offline_tf.types import Transitions, UserError

_STATE, _ACTION = "observation.state", "action"
_REWARDS, _TERMINALS = ("next.reward", "reward"), ("next.success", "next.done")
_PICTURES = ("video", "image")


def holds(folder: pathlib.Path) -> bool:
    """Whether a folder is a data set of this kind."""
    return (folder / "meta" / "info.json").exists()


def read(folder: pathlib.Path, keys: Sequence[str], state_dim: int | None = None) -> Transitions:
    """Reads a folder of version 2 or 3.

    Rows where next.success is true are terminal; without that column, rows where next.done is. All
    other episodes count as cut.

    Args:
      folder: of the data set.
      keys: features that are joined to the observation, in this order; empty: observation.state.
      state_dim: S of the task, checked when given.

    Raises:
      UserError: the folder is damaged, or has no such features.
    """
    features = _features(folder)
    keys = tuple(keys) or (_STATE,)
    pictures = [name for name, kind in features.items() if kind in _PICTURES]
    missing = [name for name in (*keys, _ACTION) if name not in features or name in pictures]
    if missing:
        numbers = [name for name in features if name not in pictures]
        raise UserError(
            f"--dataset: {folder} has no numbers called {', '.join(missing)}; choose with "
            f"--observation_keys among {', '.join(numbers)}"
        )
    if pictures:
        logging.info("--dataset: %s: leaving out the pictures %s", folder, ", ".join(pictures))
    paths = sorted((folder / "data").rglob("*.parquet"))
    if not paths:
        raise UserError(f"--dataset: expected Parquet files in {folder / 'data'}, found none")
    groups = {"observations": list(keys), "actions": [_ACTION], "episodes": ["episode_index"]}
    for name, words in (("rewards", _REWARDS), ("terminals", _TERMINALS)):
        if present := [word for word in words if word in features]:
            groups[name] = present[:1]
    if "terminals" in groups:
        logging.info("--dataset: %s: taking %s as terminal", folder, groups["terminals"][0])

    def groups_of(table: Table) -> dict[str, list[str]]:
        absent = [word for words in groups.values() for word in words if word not in table.names]
        if absent:
            raise UserError(f"--dataset: {table.path} lacks the columns {', '.join(absent)}")
        return groups

    return table_rows.join(paths, (), groups_of, state_dim)


def _features(folder: pathlib.Path) -> dict[str, Any]:
    """Name of each feature -> its kind."""
    path = folder / "meta" / "info.json"
    try:
        features = json.loads(path.read_text())["features"]
        return {str(name): feature["dtype"] for name, feature in features.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(columns.unreadable(path, "description of a data set", error)) from None
