"""Hopper: one leg, 11 observations, 3 motors.

Source: Gymnasium hopper_v4.py and hopper_v5.py; the same robot as OpenAI Gym's Hopper-v2.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from offline_tf.tasks import locomotion
from offline_tf.types import Array, SimulationSpec, TaskSpec, Tensor

MIN_HEIGHT = 0.7
MAX_ANGLE = 0.2
MAX_STATE = 100.0
VELOCITY_LIMIT = 10.0


def termination(next_states: Tensor) -> Tensor:
    """True where the hopper has fallen.

    [B, S] -> [B] bool: not (z > 0.7, |angle| < 0.2 and every other entry within +-100).

    Differs: the simulator applies the +-100 bound to unclipped velocities, which an observation
    clipped to +-10 cannot show.
    """
    healthy = (
        (next_states[..., 0] > MIN_HEIGHT)
        & (tf.abs(next_states[..., 1]) < MAX_ANGLE)
        & tf.reduce_all(tf.abs(next_states[..., 1:]) < MAX_STATE, axis=-1)
    )
    return ~healthy


def observe(qpos: Array, qvel: Array) -> Array:
    """Positions without x, then velocities clipped to +-10."""
    return np.concatenate([qpos[:, 1:], np.clip(qvel, -VELOCITY_LIMIT, VELOCITY_LIMIT)], axis=1)


def healthy(qpos: Array, qvel: Array) -> Array:
    """The simulator's own test, on unclipped velocities; [B] bool."""
    bounded_state = np.concatenate([qpos[:, 2:], qvel], axis=1)
    return (
        np.all(np.abs(bounded_state) < MAX_STATE, axis=1)
        & (qpos[:, 1] > MIN_HEIGHT)
        & (np.abs(qpos[:, 2]) < MAX_ANGLE)
    )


SPEC = TaskSpec(
    name="hopper",
    observation_names=(
        "height",
        "torso_angle",
        "thigh_angle",
        "leg_angle",
        "foot_angle",
        "velocity_x",
        "velocity_z",
        "torso_velocity",
        "thigh_velocity",
        "leg_velocity",
        "foot_velocity",
    ),
    action_names=("thigh_motor", "leg_motor", "foot_motor"),
    action_low=-np.ones(3, np.float32),
    action_high=np.ones(3, np.float32),
    dt=0.008,
    max_episode_steps=1000,
    velocity_indices=tuple(range(5, 11)),
    reward=locomotion.forward_reward(5, 1.0, 1e-3, termination),
    termination=termination,
    alive_bonus=1.0,
    control_cost=1e-3,
    velocity_limit=VELOCITY_LIMIT,
    finite_difference=((6, 0), (7, 1), (8, 2), (9, 3), (10, 4)),
    reference_returns=(-20.272305, 3234.3),
    simulation=SimulationSpec(
        xml={"v2": "hopper.xml", "v4": "hopper.xml", "v5": "hopper.xml"},
        v2_key="Hopper",
        frame_skip=4,
        observe=observe,
        healthy=healthy,
        start=locomotion.uniform_start(5e-3),
    ),
)
