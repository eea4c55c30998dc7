"""Ant: four legs, 27 observations, 8 motors.

Source: Gymnasium ant_v4.py and ant_v5.py; OpenAI Gym's Ant-v2 shows 84 contact forces more, which
are zero with MuJoCo 2.0 and later and which MOReL leaves out.

Differs: under v5 physics the simulator charges contact forces, about 1e-3 per step, which the
observation does not show and the reward function therefore leaves out.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from offline_tf.tasks import locomotion
from offline_tf.types import Array, SimulationSpec, TaskSpec, Tensor

MIN_HEIGHT, MAX_HEIGHT = 0.2, 1.0


def termination(next_states: Tensor) -> Tensor:
    """True where not (0.2 <= z <= 1 and everything finite); [B, S] -> [B] bool."""
    height = next_states[..., 0]
    healthy = (
        (height >= MIN_HEIGHT)
        & (height <= MAX_HEIGHT)
        & tf.reduce_all(tf.math.is_finite(next_states), axis=-1)
    )
    return ~healthy


def observe(qpos: Array, qvel: Array) -> Array:
    """Positions without x and y, then velocities; nothing clipped."""
    return np.concatenate([qpos[:, 2:], qvel], axis=1)


def healthy(qpos: Array, qvel: Array) -> Array:
    """The simulator's own test; [B] bool."""
    finite = np.isfinite(qpos).all(axis=1) & np.isfinite(qvel).all(axis=1)
    return finite & (qpos[:, 2] >= MIN_HEIGHT) & (qpos[:, 2] <= MAX_HEIGHT)


_JOINTS = tuple(f"{joint}_{leg}" for leg in range(1, 5) for joint in ("hip", "ankle"))
# The motors of ant.xml stand in another order than its joints.
_MOTORS = tuple(f"{joint}_{leg}" for leg in (4, 1, 2, 3) for joint in ("hip", "ankle"))

SPEC = TaskSpec(
    name="ant",
    observation_names=(
        "height",
        "quaternion_w",
        "quaternion_x",
        "quaternion_y",
        "quaternion_z",
        *(f"{joint}_angle" for joint in _JOINTS),
        "velocity_x",
        "velocity_y",
        "velocity_z",
        "angular_velocity_x",
        "angular_velocity_y",
        "angular_velocity_z",
        *(f"{joint}_velocity" for joint in _JOINTS),
    ),
    action_names=tuple(f"{motor}_motor" for motor in _MOTORS),
    action_low=-np.ones(8, np.float32),
    action_high=np.ones(8, np.float32),
    dt=0.05,
    max_episode_steps=1000,
    velocity_indices=tuple(range(13, 27)),
    reward=locomotion.forward_reward(13, 1.0, 0.5, termination),
    termination=termination,
    alive_bonus=1.0,
    control_cost=0.5,
    reference_returns=(-325.6, 3879.7),
    simulation=SimulationSpec(
        xml={"v2": "ant.xml", "v4": "ant.xml", "v5": "ant.xml"},
        v2_key="Ant",
        frame_skip=5,
        observe=observe,
        healthy=healthy,
        start=locomotion.normal_velocity_start(0.1),
        contact_cost={"v5": 5e-4},
    ),
)
