"""Walker2d: two legs, 17 observations, 6 motors.

Source: Gymnasium walker2d_v4.py and walker2d_v5.py; the same robot as OpenAI Gym's Walker2d-v2.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from offline_tf.tasks import locomotion
from offline_tf.types import Array, SimulationSpec, TaskSpec, Tensor

MIN_HEIGHT, MAX_HEIGHT = 0.8, 2.0
MAX_ANGLE = 1.0
VELOCITY_LIMIT = 10.0


def termination(next_states: Tensor) -> Tensor:
    """True where the walker has fallen: not (0.8 < z < 2 and |angle| < 1); [B, S] -> [B] bool."""
    height, angle = next_states[..., 0], next_states[..., 1]
    healthy = (height > MIN_HEIGHT) & (height < MAX_HEIGHT) & (tf.abs(angle) < MAX_ANGLE)
    return ~healthy


def observe(qpos: Array, qvel: Array) -> Array:
    """Positions without x, then velocities clipped to +-10."""
    return np.concatenate([qpos[:, 1:], np.clip(qvel, -VELOCITY_LIMIT, VELOCITY_LIMIT)], axis=1)


def healthy(qpos: Array, qvel: Array) -> Array:
    """The simulator's own test; [B] bool."""
    del qvel
    height, angle = qpos[:, 1], qpos[:, 2]
    return (height > MIN_HEIGHT) & (height < MAX_HEIGHT) & (np.abs(angle) < MAX_ANGLE)


_JOINTS = ("thigh", "leg", "foot", "left_thigh", "left_leg", "left_foot")

SPEC = TaskSpec(
    name="walker2d",
    observation_names=(
        "height",
        "torso_angle",
        *(f"{joint}_angle" for joint in _JOINTS),
        "velocity_x",
        "velocity_z",
        "torso_velocity",
        *(f"{joint}_velocity" for joint in _JOINTS),
    ),
    action_names=tuple(f"{joint}_motor" for joint in _JOINTS),
    action_low=-np.ones(6, np.float32),
    action_high=np.ones(6, np.float32),
    dt=0.008,
    max_episode_steps=1000,
    velocity_indices=tuple(range(8, 17)),
    reward=locomotion.forward_reward(8, 1.0, 1e-3, termination),
    termination=termination,
    alive_bonus=1.0,
    control_cost=1e-3,
    velocity_limit=VELOCITY_LIMIT,
    finite_difference=((9, 0), *((10 + i, 1 + i) for i in range(7))),
    reference_returns=(1.629008, 4592.3),
    simulation=SimulationSpec(
        xml={"v2": "walker2d.xml", "v4": "walker2d.xml", "v5": "walker2d_v5.xml"},
        v2_key="Walker2d",
        frame_skip=4,
        observe=observe,
        healthy=healthy,
        start=locomotion.uniform_start(5e-3),
    ),
)
