"""What the four MuJoCo robots share: the form of their reward and their start noise."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from offline_tf.types import Array, Tensor


def forward_reward(
    velocity_index: int,
    alive_bonus: float,
    control_cost: float,
    termination: Callable[[Tensor], Tensor] | None = None,
) -> Callable[[Tensor, Tensor, Tensor, str], Tensor]:
    """Builds reward(s, a, s', physics) = (vx + vx') / 2 + bonus - cost * sum a^2.

    The simulator pays (x' - x) / dt with the absolute position x, which is not observed. The mean
    of the velocities at both ends of the step is the trapezoid rule for that integral.

    Args:
      velocity_index: where vx stands in the state.
      alive_bonus: reward per step. v2 and v4 pay it on the terminating step too, v5 does not.
      control_cost: weight of the squared action; the action as logged is charged.
      termination: needed where the bonus is not zero, for v5.

    Returns:
      The reward function; states [B, S], actions [B, A] -> [B].
    """

    def reward(states: Tensor, actions: Tensor, next_states: Tensor, physics: str) -> Tensor:
        velocity = 0.5 * (states[..., velocity_index] + next_states[..., velocity_index])
        cost = control_cost * tf.reduce_sum(tf.square(actions), axis=-1)
        bonus = tf.fill(tf.shape(velocity), tf.cast(alive_bonus, velocity.dtype))
        if physics == "v5" and termination is not None:
            bonus = tf.where(termination(next_states), tf.zeros_like(bonus), bonus)
        return velocity + bonus - cost

    return reward


def never_terminates(next_states: Tensor) -> Tensor:
    """Termination function of a task that only ends by its time limit; [B, S] -> [B] bool."""
    return tf.zeros(tf.shape(next_states)[:-1], dtype=tf.bool)


def _uniform_start(
    generator: np.random.Generator, count: int, qpos0: Array, num_velocities: int, *, scale: float
) -> tuple[Array, Array]:
    qpos = qpos0 + generator.uniform(-scale, scale, size=(count, len(qpos0)))
    return qpos, generator.uniform(-scale, scale, size=(count, num_velocities))


def _normal_velocity_start(
    generator: np.random.Generator, count: int, qpos0: Array, num_velocities: int, *, scale: float
) -> tuple[Array, Array]:
    qpos = qpos0 + generator.uniform(-scale, scale, size=(count, len(qpos0)))
    return qpos, scale * generator.standard_normal(size=(count, num_velocities))


def uniform_start(scale: float) -> Callable:
    """Start states U(+-scale) around the rest position, in positions and velocities."""
    return functools.partial(_uniform_start, scale=scale)


def normal_velocity_start(scale: float) -> Callable:
    """Start states U(+-scale) in positions and scale * N(0, 1) in velocities."""
    return functools.partial(_normal_velocity_start, scale=scale)
