"""HalfCheetah: two legs, 17 observations, 6 motors, never terminates.

Source: Gymnasium half_cheetah_v4.py and v5; the same robot as OpenAI Gym's HalfCheetah-v2.
"""

from __future__ import annotations

import numpy as np

from offline_tf.tasks import locomotion
from offline_tf.types import Array, SimulationSpec, TaskSpec


def observe(qpos: Array, qvel: Array) -> Array:
    """Positions without x, then velocities, nothing clipped."""
    return np.concatenate([qpos[:, 1:], qvel], axis=1)


def healthy(qpos: Array, qvel: Array) -> Array:
    """Always true; [B] bool."""
    del qvel
    return np.ones(len(qpos), bool)


_JOINTS = ("back_thigh", "back_shin", "back_foot", "front_thigh", "front_shin", "front_foot")

SPEC = TaskSpec(
    name="halfcheetah",
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
    dt=0.05,
    max_episode_steps=1000,
    velocity_indices=tuple(range(8, 17)),
    reward=locomotion.forward_reward(8, 0.0, 0.1),
    termination=locomotion.never_terminates,
    alive_bonus=0.0,
    control_cost=0.1,
    reference_returns=(-280.178953, 12135.0),
    simulation=SimulationSpec(
        xml={"v2": "half_cheetah.xml", "v4": "half_cheetah.xml", "v5": "half_cheetah.xml"},
        v2_key="HalfCheetah",
        frame_skip=5,
        observe=observe,
        healthy=healthy,
        start=locomotion.normal_velocity_start(0.1),
    ),
)
