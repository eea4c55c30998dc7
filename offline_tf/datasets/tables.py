"""npz archives and CSV tables with named columns."""

from __future__ import annotations

import csv
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from offline_tf.datasets import columns, episodes
from offline_tf.types import Array, TaskSpec, Transitions, UserError

_ROWS_PER_BLOCK = 65536


def read_npz(path: pathlib.Path, state_dim: int | None = None) -> Transitions:
    """Reads an archive of D4RL's columns (or one of their aliases); no pickled objects.

    Raises:
      UserError: the archive is damaged, holds objects, or would not fit in memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            columns.check_size(sum(item.file_size for item in archive.infolist()), str(path))
        with np.load(path, allow_pickle=False) as file:
            names = episodes.renamed({name: name for name in file.files})
            arrays = {name: file[key] for name, key in names.items()}
    except UserError:
        raise
    except Exception as error:  # zipfile and numpy raise many kinds for a damaged archive
        raise UserError(columns.unreadable(path, "npz archive", error)) from None
    return columns.from_columns(arrays, str(path), state_dim)


def read_csv(path: pathlib.Path, task: TaskSpec) -> Transitions:
    """Reads a table with a header row; one row is one control step.

    Columns: the task's observation and action names; `reward` (absent: 0 everywhere); `episode`, any
    number or text that changes where a new episode begins, or `terminal` and `timeout` (0 or 1) on
    last rows; `next_` and an observation's name for all observations, if they are recorded. Other
    columns are ignored.

    Args:
      path: of the file.
      task: names the columns.

    Raises:
      UserError: a column is missing, or a cell is not a number (its line is named).
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = [name.strip() for name in next(rows, [])]
            return _from_rows(header, rows, path, task)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(columns.unreadable(path, "CSV table", error)) from None


def _from_rows(header: Sequence[str], rows: Any, path: pathlib.Path, task: TaskSpec) -> Transitions:
    nexts = [f"next_{name}" for name in task.observation_names]
    needed = [*task.observation_names, *task.action_names]
    missing = [name for name in needed if name not in header]
    if missing:
        raise UserError(
            f"--dataset: {path} lacks the columns {', '.join(missing)} of --env={task.name}, "
            f"got {', '.join(header) or 'an empty file'}"
        )
    recorded = all(name in header for name in nexts)
    optional = [name for name in ("reward", "terminal", "timeout") if name in header]
    wanted = needed + (nexts if recorded else []) + optional
    at = [header.index(name) for name in wanted]
    episode_at = header.index("episode") if "episode" in header else None
    blocks: list[Array] = []
    block: list[list[float]] = []
    changes: list[bool] = []
    before: str | None = None
    for row in rows:
        if not row:
            continue
        try:
            block.append([float(row[i]) for i in at])
            name = row[episode_at] if episode_at is not None else ""
        except (ValueError, IndexError):
            cells = {
                w: row[i] if i < len(row) else "nothing" for w, i in zip(wanted, at, strict=True)
            }
            bad = next((f"{w}={c!r}" for w, c in cells.items() if not _is_number(c)), "a cell")
            raise UserError(
                f"--dataset: {path}, line {rows.line_num}: expected a number, got {bad}"
            ) from None
        changes.append(before is not None and name != before)
        before = name
        if len(block) == _ROWS_PER_BLOCK:
            blocks.append(np.array(block, np.float64))
            block = []
    blocks.append(np.array(block, np.float64).reshape(-1, len(wanted)))
    table = dict(zip(wanted, np.concatenate(blocks).T, strict=True))
    count = len(changes)
    if not count:
        raise UserError(f"--dataset: {path}: expected rows under the header, found none")

    def together(names: Sequence[str]) -> Array:
        return np.stack([table[name] for name in names], axis=1)

    zeros = np.zeros(count)
    terminals = table.get("terminal", zeros) != 0.0
    timeouts = table.get("timeout", zeros) != 0.0
    timeouts[:-1] |= np.array(changes[1:], bool) & ~terminals[:-1]
    timeouts[-1] |= not terminals[-1]
    found = {
        "observations": together(task.observation_names),
        "actions": together(task.action_names),
        "rewards": table.get("reward", zeros),
        "terminals": terminals,
        "timeouts": timeouts,
    }
    if recorded:
        found["next_observations"] = together(nexts)
    return columns.from_columns(found, str(path), task.state_dim)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
