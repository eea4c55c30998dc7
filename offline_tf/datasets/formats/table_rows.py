"""From a table's columns to Transitions, by the names that a task gives them."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging

from offline_tf.datasets.formats import columns, synonyms
from offline_tf.datasets.formats.tables import Table
from offline_tf.numerics.large_columns import ColumnWriter
from offline_tf.types import Array, TaskSpec, Transitions, UserError

# D4RL's columns of one number a row, and what tables call them here.
_OF_A_ROW = {
    "rewards": "reward",
    "terminals": "terminal",
    "timeouts": "timeout",
    "dones": "done",
    "episodes": "episode",
}
_OWN = [f"{word} as {word}" for word in _OF_A_ROW.values()]
_COUNTED = "episodes"
_EXAMPLE = "--columns=observation:2,action:1,reward,terminal"


def read(paths: Sequence[pathlib.Path], task: TaskSpec, layout: Sequence[str] = ()) -> Transitions:
    """Reads tables of which each row is one control step.

    Columns: the task's observation and action names; `reward` (absent: 0 everywhere); `episode`, any
    number or text that changes where a new episode begins, or `terminal` and `timeout` (0 or 1, True
    or False) on last rows; `next_` and an observation's name for all observations, if they are
    recorded. Other libraries' names for these are taken, too. Other columns are ignored. An episode
    ends with its file.

    Args:
      paths: of the files, one log after the other.
      task: names the columns.
      layout: see `named`; empty: the tables have names.

    Raises:
      UserError: a column is missing, or a cell is not a number (its line is named).
    """
    names = named(layout, task)
    return join(paths, names, lambda table: _groups(table, task), task.state_dim)


def join(
    paths: Sequence[pathlib.Path],
    names: Sequence[str],
    groups_of: Callable[[Table], dict[str, list[str]]],
    state_dim: int | None,
) -> Transitions:
    """Joins tables.

    Args:
      paths: of the files, one after the other.
      names: of their columns, in place of their own; empty: their own.
      groups_of: D4RL's column, or "episodes" or "dones" -> the table's columns that make it.
      state_dim: S of the task, checked when given.

    Raises:
      UserError: a cell is not a number, or tables have other columns than the first.
    """
    source = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    writers: dict[str, ColumnWriter] = {}
    expected: set[str] = set()
    episode = 0
    for path in paths:
        table = Table(path, names)
        groups = groups_of(table)
        expected = expected or set(groups)
        if expected != set(groups):
            raise UserError(f"--dataset: {path} has other columns than {paths[0]}")
        episode = _append(table, groups, writers, episode) + 1
    arrays: dict[str, Any] = {name: writer.finish() for name, writer in writers.items()}
    if not len(arrays["observations"]):
        raise UserError(f"--dataset: {source}: expected rows under the header, found none")
    if "rewards" not in arrays:
        logging.info("--dataset: %s has no rewards: they count as 0", source)
        arrays["rewards"] = np.zeros(len(arrays["observations"]), np.float32)
    return columns.from_columns(arrays, source, state_dim)


def named(layout: Sequence[str], task: TaskSpec) -> list[str]:
    """The names of all columns of a table in order.

    Args:
      layout: names; "observation:N", "action:N" and "next_observation:N" stand for the task's.
      task: names observations and actions.

    Raises:
      UserError: N is not the task's number of them.
    """
    groups = {
        "observation": list(task.observation_names),
        "action": list(task.action_names),
        "next_observation": [f"next_{name}" for name in task.observation_names],
    }
    found = []
    for word in layout:
        kind, separator, count = word.partition(":")
        if not separator:
            found.append(word.strip())
            continue
        if kind not in groups or not count.isdigit():
            raise UserError(
                f"--columns: expected names, or {', '.join(groups)} with a number such as "
                f"{_EXAMPLE}, got {word!r}"
            )
        if int(count) != len(groups[kind]):
            raise UserError(
                f"--columns: expected {kind}:{len(groups[kind])} for --env={task.name}, got {word!r}"
            )
        found += groups[kind]
    return found


def _groups(table: Table, task: TaskSpec) -> dict[str, list[str]]:
    """D4RL's column -> the table's columns that make it.

    Raises:
      UserError: some are missing, or a name occurs twice.
    """
    names = table.names
    if not table.has_names:
        raise UserError(
            f"--dataset: {table.path} has no line of names, its first line is numbers; name its "
            f"{len(names)} columns in order, such as {_EXAMPLE}"
        )
    others = synonyms.found_in(names)
    groups = {"observations": list(task.observation_names), "actions": list(task.action_names)}
    nexts = [f"next_{name}" for name in task.observation_names]
    if all(name in names for name in nexts):
        groups["next_observations"] = nexts
    missing = [name for group in groups.values() for name in group if name not in names]
    if missing and table.dialect is None and {"observations", "actions"} <= others.keys():
        # Parquet: a cell may hold all numbers of an observation.
        wide = ("observations", "actions", "next_observations")
        groups = {name: [others[name]] for name in wide if name in others}
    elif missing:
        raise UserError(
            f"--dataset: {table.path} lacks the columns {', '.join(missing)} of --env={task.name}, "
            f"got {', '.join(names) or 'an empty file'}"
        )
    taken = {name for group in groups.values() for name in group}
    groups |= {
        name: [others[name]] for name in _OF_A_ROW if others.get(name, "") not in {"", *taken}
    }
    used = [name for group in groups.values() for name in group]
    if twice := sorted({name for name in used if names.count(name) > 1}):
        raise UserError(
            f"--dataset: {table.path} has several columns called {', '.join(twice)}; name each once"
        )
    told = [f"{groups[name][0]} as {word}" for name, word in _OF_A_ROW.items() if name in groups]
    synonyms.tell_taken([words for words in told if words not in _OWN], str(table.path))
    if table.dialect is not None and table.dialect.in_words():
        logging.info("--dataset: %s has %s", table.path, table.dialect.in_words())
    return groups


def _append(
    table: Table, groups: dict[str, list[str]], writers: dict[str, ColumnWriter], episode: int
) -> int:
    """Adds a table's rows.

    Args:
      table: the table.
      groups: see `_groups`.
      writers: of D4RL's columns; they are made for the first table.
      episode: number of the table's first one.

    Returns:
      The number of its last one.
    """
    groups = dict(groups)
    (name_of_episode,) = groups.pop("episodes", [""])
    numbers = [name for group in groups.values() for name in group]
    counts = bool(name_of_episode) or "next_observations" not in groups or "timeouts" in groups
    last: Any = None
    for name in groups if not writers else ():
        writers[name] = ColumnWriter()
    for block in table.blocks(numbers, [name_of_episode] if name_of_episode else []):
        for name, members in groups.items():
            part = np.concatenate([_two_dimensional(block[member]) for member in members], axis=1)
            with np.errstate(over="ignore"):  # beyond float32 is infinite; the doctor names it
                writers[name].append((part[:, 0] if name in _OF_A_ROW else part).astype(np.float32))
        count = len(block[numbers[0]])
        if not count:
            continue
        begins = np.zeros(count, np.int32)
        if name_of_episode:
            words = block[name_of_episode]
            begins[1:] = words[1:] != words[:-1]
            begins[:1] = last is not None and words[0] != last
            last = words[-1] if count else last
        if counts:
            writers.setdefault(_COUNTED, ColumnWriter()).append(
                episode + np.cumsum(begins, dtype=np.int32)
            )
        episode += int(begins.sum())
    return episode


def _two_dimensional(values: Array) -> Array:
    return values if values.ndim == 2 else values[:, None]
