"""The replay buffer of a training with Stable-Baselines3, from its pickle; nothing in it is run.

It holds every step of a training in order, so the first steps of SAC's are D4RL's replay sets.
Source: ReplayBuffer of stable_baselines3/common/buffers.py, version 2.9.
"""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import numpy as np

from offline_tf.numerics import pickle_sizes, pickled_arrays
from offline_tf.numerics.size_limits import check_size
from offline_tf.types import Array, TaskSpec, Transitions, UserError


class Recorded(NamedTuple):
    """The steps of a training.

    Attributes:
      transitions: in the order of the training.
      interrupted_after: numbers of steps after which the training was stopped and gone on with: the
        episode was given up there.
    """

    transitions: Transitions
    interrupted_after: tuple[int, ...]


class _Columns(NamedTuple):
    """A buffer's arrays over the steps that it holds, of its one environment.

    Attributes:
      observations, next_observations: [N, S] float64.
      actions: [N, A] float32, mapped to [-1, 1].
      rewards, dones, timeouts: [N] float32.
    """

    observations: Array
    next_observations: Array
    actions: Array
    rewards: Array
    dones: Array
    timeouts: Array


def read(path: pathlib.Path, task: TaskSpec, steps: int | None = None) -> Recorded:
    """Reads the steps of a training.

    An episode ends at a terminal state, at the time limit, where the training was stopped and gone on
    with, and at the last row. At the second of these the next row's observation is not this row's next
    observation, though no flag says so.

    Args:
      path: of `save_replay_buffer`'s pickle; the buffer is one of SAC, TD3 or DDPG.
      task: dimensions, and the bounds that actions are mapped to.
      steps: N, the first so many; None: all.

    Returns:
      The transitions, without physical states, and the interruptions.

    Raises:
      UserError: no such file, damaged, of another kind or task, without the training's first steps, or
        with less than `steps`.
    """
    held = _columns(path, task)
    count = len(held.rewards) if steps is None else steps
    if count > len(held.rewards):
        raise UserError(
            f"--training: {path} holds {len(held.rewards)} steps, expected {count}; take the buffer of "
            "the training's end, or go on with it"
        )
    held = _Columns(*(column[:count] for column in held))
    done, limit = held.dones > 0.5, held.timeouts > 0.5
    # In the buffer's own precision: equal, to the bit, where nothing happened in between.
    moved = np.any(held.observations[1:] != held.next_observations[:-1], axis=1)
    interrupted = np.append(moved, False) & ~done
    terminals = done & ~limit
    timeouts = (done & limit) | interrupted
    timeouts[-1] |= not terminals[-1]
    middle = 0.5 * (task.action_high + task.action_low)
    half = 0.5 * (task.action_high - task.action_low)
    transitions = Transitions(
        observations=held.observations.astype(np.float32),
        actions=(middle + half * held.actions).astype(np.float32),
        rewards=held.rewards.astype(np.float32),
        next_observations=held.next_observations.astype(np.float32),
        terminals=terminals,
        timeouts=timeouts,
    )
    return Recorded(transitions, tuple(int(row) + 1 for row in np.flatnonzero(interrupted)))


def _columns(path: pathlib.Path, task: TaskSpec) -> _Columns:
    """All steps that a buffer holds."""
    try:
        check_size(path.stat().st_size, str(path), "training")
        pickle_sizes.check_file(path)
        with path.open("rb") as file:
            state = vars(pickled_arrays.DataOnly(file).load())
        found = {name: pickled_arrays.resolved(state[name]) for name in _Columns._fields}
        size, position, full = (int(state[name]) for name in ("buffer_size", "pos", "full"))
        told_apart = bool(state["handle_timeout_termination"])
        count = size if full else position
        rows = {name: _of_one_environment(values, size) for name, values in found.items()}
    except FileNotFoundError:
        raise UserError(f"--training: expected a replay buffer at {path}, found none") from None
    except UserError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"--training: {path} is no replay buffer of Stable-Baselines3 that can be read: {reason}"
        ) from None
    if full and position:
        raise UserError(
            f"--training: {path} has lost the training's first steps, as it holds {size}; train with a "
            "buffer as large as the training"
        )
    if not told_apart:
        raise UserError(
            f"--training: {path} does not tell time limits from terminal states; expected a buffer "
            "with handle_timeout_termination"
        )
    held = _Columns(**{name: values[:count] for name, values in rows.items()})
    _check_widths(held, task, path)
    return held


def _of_one_environment(values: Any, size: int) -> Array:
    """[size, 1, ...] -> [size, ...]."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise ValueError("a column that is no array of numbers")
    if values.ndim < 2 or values.shape[:2] != (size, 1):
        raise ValueError(f"a column {values.shape}, expected ({size}, 1, ...): of one environment")
    return values[:, 0]


def _check_widths(held: _Columns, task: TaskSpec, path: pathlib.Path) -> None:
    count = len(held.rewards)
    wide, narrow = (count, task.state_dim), (count, task.action_dim)
    expected = _Columns(wide, wide, narrow, (count,), (count,), (count,))  # type: ignore[arg-type]
    for name, values, shape in zip(held._fields, held, expected, strict=True):
        if values.shape != shape:
            raise UserError(
                f"--training: {path} has {name} {values.shape}, --env={task.name} has {shape}; it is "
                "of another task"
            )
    if not count:
        raise UserError(f"--training: {path} holds no steps")
