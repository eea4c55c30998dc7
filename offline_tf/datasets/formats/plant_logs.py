"""A plant's log, rows with time stamps, as steps of equal length; see `types.LogSpec`.

A step k lasts from t_k to t_k + dt. Its observation is what was measured until t_k: the mean of the
samples since t_k - dt, that at t_k among them, or the last one. Its action is what was commanded on
average during the step, its next observation what was measured until t_k + dt. A log is cut where it
is silent for too long.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from offline_tf.datasets.formats import long_tables, timestamps
from offline_tf.datasets.formats.tables import Table
from offline_tf.numerics import resampling
from offline_tf.numerics.large_columns import ColumnWriter, blocks
from offline_tf.types import Array, LogSpec, Signal, TaskSpec, Transitions, UserError

_DAY = 86_400.0
_ROUNDING = 1e-3  # of a step
_MOST_STEPS, _STEPS_PER_ROW = 1_000_000, 100


def read(paths: Sequence[pathlib.Path], task: TaskSpec) -> Transitions:
    """Reads tables of one log; see `read_with_times`."""
    return read_with_times(paths, task)[0]


def read_with_times(paths: Sequence[pathlib.Path], task: TaskSpec) -> tuple[Transitions, Array]:
    """Reads tables of one log.

    Args:
      paths: of the files; their rows are put in the order of their time stamps.
      task: with a log.

    Returns:
      The steps, and [N] float64, when each begins, in seconds as `timestamps.seconds` gives them.

    Raises:
      UserError: a column is missing, a cell is neither number nor missing, stamps cannot be read, or
        not two steps follow each other.
    """
    assert task.log is not None
    log, source = task.log, str(paths[0])
    found = samples(paths, task)
    times, columns = _in_order(found.times, found.columns, source)
    count = int((times[-1] - times[0]) / task.dt + _ROUNDING)
    if count < 2:
        raise UserError(
            f"--dataset: {source}: expected a log of several steps of {task.dt:g} s, got "
            f"{times[-1] - times[0]:g} s"
        )
    _check_span(times, count, task.dt, source)
    grid = times[0] + task.dt * np.arange(count + 1)  # [G + 1]
    times = _snapped(times, times[0], task.dt)
    known = resampling.age(times, grid) <= log.max_gap_seconds
    observed, commanded = [], []
    for signal in log.observations:
        values, is_known = _measured(times, columns[signal.column], signal, grid, task.dt)
        observed.append(values)
        known &= is_known
    for signal in log.actions:
        values, is_known = _commanded(times, columns[signal.column], signal, grid)
        commanded.append(values)
        known[:-1] &= is_known
    if log.time_of_day:
        phase = 2.0 * np.pi * (grid % _DAY) / _DAY
        observed += [np.sin(phase), np.cos(phase)]
    states = np.stack(observed, axis=1).astype(np.float32)  # [G + 1, S']
    actions = np.stack(commanded, axis=1).astype(np.float32)  # [G, A]
    rewards = np.zeros(count, np.float32)
    if log.reward and log.adds_rewards:
        amounts = np.nan_to_num(np.asarray(columns[log.reward]))
        rewards = resampling.sample_sum(times, amounts, grid[:-1], grid[1:]).astype(np.float32)
    elif log.reward:
        paid, is_known = _commanded(times, columns[log.reward], _paid(log), grid)
        rewards, known[:-1] = paid.astype(np.float32), known[:-1] & is_known
    moving = _moving(actions, log.idle_seconds / task.dt)
    if found.runs is not None:
        run, is_within = found.runs.numbers(grid)
        known &= is_within
        moving &= run[:-1] == run[1:]
    steps = known[:-1] & known[1:] & moving  # [G] both ends of the step are known
    data, rows = _transitions(states, actions, rewards, steps, log.history, task, source)
    _tell(data, count, int((~moving).sum()), source)
    return data, grid[rows]


def _check_span(times: Array, count: int, step: float, source: str) -> None:
    """Refuses a log in which a stamp far off would make millions of empty steps.

    Raises:
      UserError: it has so many more steps than rows.
    """
    if count <= max(_MOST_STEPS, _STEPS_PER_ROW * len(times)):
        return
    at = int(np.argmax(np.diff(times)))
    raise UserError(
        f"--dataset: {source}: {len(times):,} rows span {count:,} steps of {step:g} s; between the "
        f"rows {at + 1:,} and {at + 2:,} in time lie {times[at + 1] - times[at]:,.0f} s. Is a stamp "
        "wrong, or step_seconds too short?"
    )


class Samples(NamedTuple):
    """Rows of a log.

    Attributes:
      times: [n] seconds.
      columns: each column's values [n] float64, NaN where nothing was measured.
      runs: where they are told apart; None: it is one.
    """

    times: Array
    columns: dict[str, Array]
    runs: Runs | None


def samples(paths: Sequence[pathlib.Path], task: TaskSpec) -> Samples:
    """What tables hold of a log, row by row as they stand.

    Args:
      paths: of the files.
      task: its log names the columns.

    Raises:
      UserError: a column is missing, a cell is neither number nor missing, stamps cannot be read, or
        there are no rows.
    """
    assert task.log is not None
    log = task.log
    names = [signal.column for signal in (*log.observations, *log.actions)]
    names = list(dict.fromkeys([*names, *([log.reward] if log.reward else [])]))
    if log.tag:
        times, columns = _of_tags(paths, log, names)
        return Samples(_checked_times(times, paths[0]), columns, None)
    stamps, writers = ColumnWriter(), {name: ColumnWriter() for name in names}
    marks = [name for name in (log.time, log.date, log.batch) if name]
    batches: list[Array] = []
    files: list[int] = []  # first rows
    for path in paths:
        files.append(sum(map(len, batches)))
        table = Table(path)
        if missing := [name for name in (*marks, *names) if name not in table.names]:
            raise UserError(
                f"--dataset: {path} lacks the columns {', '.join(missing)}, got "
                f"{', '.join(table.names)}"
            )
        for block in table.blocks(names, marks, allow_missing=True):
            words = block[log.time]
            if log.date:
                words = timestamps.joined(block[log.date], words)
            stamps.append(timestamps.seconds(words, log.time_format, str(path)))
            for name in names:
                writers[name].append(block[name])
            if log.batch:
                batches.append(block[log.batch])
    times = _checked_times(stamps.finish(), paths[0])
    columns = {name: writer.finish() for name, writer in writers.items()}
    if not log.batch:
        return Samples(times, columns, None)
    words = np.concatenate(batches)
    first = np.append(0, np.flatnonzero(words[1:] != words[:-1]) + 1)
    # Another file may number its runs anew.
    anew = [row for row in files[1:] if row < len(times) and times[row] <= times[row - 1]]
    first = np.union1d(first, np.array(anew, np.int64))
    times = one_after_another(times, first, 10.0 * log.max_gap_seconds, task.dt)
    begins = np.array([part.min() for part in np.split(times, first[1:])])
    ends = np.array([part.max() for part in np.split(times, first[1:])])
    return Samples(times, columns, Runs(begins, ends))


class Runs(NamedTuple):
    """Stretches of a log that have nothing to do with each other, in time.

    Attributes:
      begins, ends: [m] seconds, of the first and the last row of each.
    """

    begins: Array
    ends: Array

    def numbers(self, grid: Array) -> tuple[Array, Array]:
        """[g] which run each time lies in or after, and whether it lies in one."""
        at = np.maximum(np.searchsorted(self.begins, grid, side="right") - 1, 0)
        return at, (self.begins[at] <= grid) & (grid <= self.ends[at])


def one_after_another(times: Array, first_rows: Array, gap: float, step: float) -> Array:
    """Moves the times of runs whose clocks begin anew behind each other.

    Args:
      times: [n] seconds.
      first_rows: [m], of the runs.
      gap: seconds between two runs, at least, where one is moved.
      step: seconds; a moved run begins a whole number of them after the first one.

    Returns:
      [n]; runs whose clocks go on are as they were.
    """
    moved, end = times.copy(), -np.inf
    for rows in np.split(np.arange(len(times)), first_rows[1:]):
        begins = moved[rows].min()
        if begins <= end:
            wanted = times[0] + step * np.ceil((end + gap - times[0]) / step)
            moved[rows] += wanted - begins
        end = max(end, moved[rows].max())
    return moved


def _checked_times(times: Array, path: pathlib.Path) -> Array:
    if not len(times):
        raise UserError(f"--dataset: {path}: expected rows under the header, found none")
    if not np.isfinite(times).all():
        raise UserError(f"--dataset: {path}: expected a time stamp in each row")
    return times


def _of_tags(
    paths: Sequence[pathlib.Path], log: LogSpec, names: list[str]
) -> tuple[Array, dict[str, Array]]:
    """`samples` of tables of (tag, time, value), in the order of their stamps."""
    form, tables = long_tables.Form(log.tag, log.value), [Table(path) for path in paths]
    for table in tables:
        if missing := [name for name in (log.time, *form) if name not in table.names]:
            raise UserError(
                f"--dataset: {table.path} lacks the columns {', '.join(missing)}, got "
                f"{', '.join(table.names)}"
            )
    rows = (long_tables.read(table, log.time, log.time_format, form) for table in tables)
    times, columns = long_tables.columns_of(
        itertools.chain.from_iterable(rows), names, log.reward if log.adds_rewards else ""
    )
    if missing := [name for name, values in columns.items() if not np.isfinite(values).any()]:
        raise UserError(
            f"--dataset: {paths[0]}: found no row with a number and the tag {', '.join(missing)}"
        )
    return times, columns


def _in_order(
    times: Array, columns: dict[str, Array], source: str
) -> tuple[Array, dict[str, Array]]:
    """Rows in the order of their stamps."""
    if (np.diff(times) >= 0).all():
        return times, columns
    order = np.argsort(times, kind="stable")
    logging.warning(
        "--dataset: %s: rows are not in the order of their time stamps; they are sorted", source
    )
    return times[order], {name: values[order] for name, values in columns.items()}


def _snapped(times: Array, start: float, step: float) -> Array:
    """Times that are those of the grid but for rounding, made equal to them."""
    nearest = start + step * np.round((times - start) / step)
    return np.where(np.abs(times - nearest) < _ROUNDING * step, nearest, times)


def _of_signal(times: Array, values: Array, signal: Signal) -> tuple[Array, Array]:
    """The samples in which a signal was measured; of those with one stamp the last one.

    Raises:
      UserError: there is none.
    """
    measured = np.isfinite(values)
    if not measured.any():
        raise UserError(f"--dataset: the column {signal.column!r} holds no number at all")
    times, values = times[measured], values[measured]
    newest = np.append(np.diff(times) > 0, True)
    return times[newest], values[newest]


def _measured(
    times: Array, values: Array, signal: Signal, grid: Array, step: float
) -> tuple[Array, Array]:
    """A measurement at each grid time, of what was seen until then, and whether it is known.

    "linear" looks ahead, to the next sample.
    """
    times, values = _of_signal(times, values, signal)
    is_known = resampling.age(times, grid) <= signal.hold_seconds
    if signal.resample == "mean":
        begins = np.append(grid[0] - step, grid[:-1])
        found = resampling.sample_mean(times, values, begins, grid)
    elif signal.resample == "last":
        found = resampling.last(times, values, grid)
    else:
        found = resampling.linear(times, values, grid)
    return found, is_known & np.isfinite(found)


def _commanded(times: Array, values: Array, signal: Signal, grid: Array) -> tuple[Array, Array]:
    """A command during each step [g - 1], and whether it is known."""
    times, values = _of_signal(times, values, signal)
    is_known = resampling.age(times, grid[:-1]) <= signal.hold_seconds
    if signal.resample == "mean":
        found = resampling.held_mean(times, values, grid)
    elif signal.resample == "last":
        found = resampling.last(times, values, grid[:-1])
    else:
        found = resampling.linear(times, values, grid[:-1])
    return found, is_known & np.isfinite(found)


def _paid(log: LogSpec) -> Signal:
    return Signal("reward", log.reward, "mean", log.max_gap_seconds)


def _moving(actions: Array, limit: float) -> Array:
    """[g] whether some action of [g, A] moves within so many steps before or after a step."""
    if not np.isfinite(limit):
        return np.ones(len(actions), bool)
    moves = np.flatnonzero(np.append(False, (np.diff(actions, axis=0) != 0).any(axis=1)))
    if not len(moves):
        return np.zeros(len(actions), bool)
    rows = np.arange(len(actions))
    at = np.searchsorted(moves, rows)
    to_next = np.where(at < len(moves), moves[np.minimum(at, len(moves) - 1)] - rows, np.inf)
    since_last = np.where(at > 0, rows - moves[np.maximum(at - 1, 0)], np.inf)
    return np.minimum(to_next, since_last) <= limit


def _transitions(
    states: Array,
    actions: Array,
    rewards: Array,
    steps: Array,
    history: int,
    task: TaskSpec,
    source: str,
) -> tuple[Transitions, Array]:
    """Steps with their history, in episodes of at most the task's time limit, and their rows.

    Args:
      states: [G + 1, S'] at grid times.
      actions, rewards: [G] of steps.
      steps: [G] whether a step is known.
      history: rows in an observation.
      task: rewards and ends.
      source: for the error.
    """
    # A step with its history: it and the history - 1 before it are known.
    usable = steps.copy()
    for lag in range(1, history):
        usable[lag:] &= steps[:-lag]
        usable[:lag] = False
    rows = np.flatnonzero(usable)
    if not len(rows):
        raise UserError(
            f"--dataset: {source}: found no {history} steps of {task.dt:g} s in a row in which all "
            "signals are known; raise max_gap_seconds or hold_seconds"
        )

    def observation(at: Array) -> Array:
        parts = [states[at]]
        measured = len(task.log.observations) if task.log else states.shape[1]
        for lag in range(1, history):
            parts += [states[at - lag, :measured], actions[at - lag]]
        return np.concatenate(parts, axis=1)

    names = ("observations", "next_observations", "actions", "rewards", "terminals")
    writers = {name: ColumnWriter() for name in names}
    for part in blocks(len(rows)):  # with its history a row is many times as wide
        at = rows[part]
        before, taken, after = observation(at), actions[at], observation(at + 1)
        paid, terminal = rewards[at], np.zeros(len(at), bool)
        arrays = [tf.constant(x) for x in (before, taken, after)]
        if task.reward is not None:
            paid = task.reward(arrays[0], arrays[1], arrays[2], "").numpy()
        elif task.violation is not None and task.log is not None:
            paid = paid - task.log.limit_price * task.violation(arrays[2]).numpy()
        if task.termination is not None:
            terminal = task.termination(arrays[2]).numpy()
        for name, values in zip(names, (before, after, taken, paid, terminal), strict=True):
            writers[name].append(values)
    columns = {name: writer.finish() for name, writer in writers.items()}
    terminals = columns["terminals"]
    # What follows an end within the log is another episode.
    begins = np.append(True, (np.diff(rows) > 1) | terminals[:-1])
    number = np.arange(len(rows)) - np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))
    limit = (number + 1) % task.max_episode_steps == 0
    ends = np.append(begins[1:], True) | limit
    return Transitions(**columns, timeouts=ends & ~terminals), rows


def _tell(data: Transitions, count: int, idle: int, source: str) -> None:
    episodes = len(data.episode_bounds())
    logging.info(
        "--dataset: %s: %d steps in %d episodes; %d of the log's %d steps are left out: signals are "
        "not known in them, they lack their history%s",
        source,
        len(data),
        episodes,
        count - len(data),
        count,
        f", or no action moves ({idle})" if idle else "",
    )
