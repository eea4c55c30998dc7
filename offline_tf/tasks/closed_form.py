"""What of a step follows from the task alone: actions within rates, the past in an observation.

TensorFlow functions, for graphs; the identity where a task says nothing of it.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from offline_tf.types import TaskSpec, Tensor


def executable(task: TaskSpec, states: Tensor, actions: Tensor) -> Tensor:
    """Actions as an actuator executes them: within the bounds, and near enough to the one before.

    Args:
      task: `action_low`, `action_high`, and `action_change` where a task has it.
      states: [B, S]; hold the action before where the task has rates.
      actions: [B, A], any.

    Returns:
      [B, A].
    """
    if task.action_change is not None:
        before = tf.gather(states, task.action_before_indices, axis=-1)  # [B, A]
        change = tf.constant(task.action_change, tf.float32)
        actions = tf.clip_by_value(actions, before - change, before + change)
    return tf.clip_by_value(actions, task.action_low, task.action_high)


def with_the_past(task: TaskSpec, states: Tensor, actions: Tensor, next_states: Tensor) -> Tensor:
    """Puts what is known into predicted next states: the rows and actions that become the past.

    Args:
      task: `becomes`.
      states: [B, S].
      actions: [B, A], as executed.
      next_states: [.., B, S], predicted.

    Returns:
      [.., B, S].
    """
    if not task.becomes:
        return next_states
    source = np.array(task.becomes)
    known = tf.gather(tf.concat([states, actions], axis=-1), np.maximum(source, 0), axis=-1)
    return tf.where(source >= 0, known, next_states)


def executable_in_units(task: TaskSpec, states: Tensor, actions: Tensor) -> Tensor:
    """`executable` of actions [B, A] in units of the bounds; the identity where no rate is told."""
    if task.action_change is None:
        return actions
    middle, half = _units(task)
    return (executable(task, states, middle + half * actions) - middle) / half


def with_the_past_in_units(
    task: TaskSpec, states: Tensor, actions: Tensor, next_states: Tensor
) -> Tensor:
    """`with_the_past` of actions [B, A] in units of the bounds."""
    middle, half = _units(task)
    return with_the_past(task, states, middle + half * actions, next_states)


def _units(task: TaskSpec) -> tuple[np.ndarray, np.ndarray]:
    middle = 0.5 * (task.action_high + task.action_low)
    return middle, 0.5 * (task.action_high - task.action_low)
