"""NeoRL-2's DMSD: two masses on springs, coupled by a third, each to be kept at a target.

--env=benchmarks/robustness/dmsd.py:DMSD

Source: NeoRL-2 (github.com/polixir/NeoRL2). With k = 2, m = 20, d = 4 and a step of 0.2 s:

  p' = p + dt v
  v1' = v1 + dt/m (-2k p1 + k p2 - 2d v1 + d v2 + 30 u1), and v2 with 1 and 2 exchanged
  reward = -sum_i log(|p_i' - target_i'| + 0.01)

An episode has 100 steps. Each target changes once with probability 1/2, at step 50; that it will is
nothing that an observation tells. A return R has the score 100 (R - 30.6) / (849.51 - 30.6).

python -m benchmarks.robustness.dmsd FILE.npz   replays NeoRL-2's data in these equations
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf

from offline_tf.types import Array, EnvironmentSpec, TaskSpec, Tensor

ID = "DMSD-v0"
STEPS, JUMP = 100, 50
_DT, _STIFFNESS, _MASS, _DAMPING, _FORCE = 0.2, 2.0, 20.0, 4.0, 30.0
_NEAREST = 0.01


def advance(states: Array, actions: Array) -> Array:
    """[.., 6] states and [.., 2] actions in [-1, 1] -> [.., 6] next states; targets stay."""
    position, velocity, target = states[..., :2], states[..., 2:4], states[..., 4:]
    pull = _STIFFNESS * (position[..., ::-1] - 2.0 * position)
    drag = _DAMPING * (velocity[..., ::-1] - 2.0 * velocity)
    force = pull + drag + _FORCE * actions
    after = velocity + _DT / _MASS * force
    return np.concatenate([position + _DT * velocity, after, target], axis=-1)


def payment(next_states: Array) -> Array:
    """[.., 6] -> [..], what a step that led there pays."""
    distance = np.abs(next_states[..., :2] - next_states[..., 4:])
    return -np.log(distance + _NEAREST).sum(axis=-1)


def reward(states: Tensor, actions: Tensor, next_states: Tensor, physics: str = "") -> Tensor:
    """`payment` in TensorFlow."""
    del states, actions, physics
    distance = tf.abs(next_states[..., :2] - next_states[..., 4:])
    return -tf.reduce_sum(tf.math.log(distance + _NEAREST), axis=-1)


def termination(next_states: Tensor) -> Tensor:
    """[B, 6] -> [B] bool: never."""
    return tf.zeros(tf.shape(next_states)[:-1], tf.bool)


def pd(observations: Array) -> Array:
    """A controller of middling quality: it knows neither the springs nor the coupling."""
    position, velocity, target = observations[:, :2], observations[:, 2:4], observations[:, 4:]
    return (target - position) - velocity


class Environment(gymnasium.Env):
    """The equations; start states as in NeoRL-2's data."""

    def __init__(self) -> None:
        """Makes the spaces."""
        self.dt = _DT
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (6,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._state, self._step = np.zeros(6), 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Positions within 0.25, velocities within 0.1, targets within 1.5 of 0."""
        super().reset(seed=seed, options=options)
        reach = np.array([0.25, 0.25, 0.1, 0.1, 1.5, 1.5])
        self._state, self._step = self.np_random.uniform(-reach, reach), 0
        return self._state.astype(np.float32), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One control step; new targets are there in the observation that step 50 leads to."""
        self._state = advance(self._state, np.clip(action, -1.0, 1.0))
        self._step += 1
        if self._step == JUMP:
            changes = self.np_random.uniform(size=2) < 0.5
            drawn = self.np_random.uniform(-1.5, 1.5, 2)
            self._state[4:] = np.where(changes, drawn, self._state[4:])
        return (
            self._state.astype(np.float32),
            float(payment(self._state)),
            False,
            self._step >= STEPS,
            {},
        )


if ID not in gymnasium.registry:  # this file may run under two module names
    gymnasium.register(
        ID, entry_point=lambda **settings: Environment(**settings), disable_env_checker=True
    )

DMSD = TaskSpec(
    name="dmsd",
    observation_names=("p1", "p2", "v1", "v2", "target1", "target2"),
    action_names=("u1", "u2"),
    action_low=-np.ones(2, np.float32),
    action_high=np.ones(2, np.float32),
    dt=_DT,
    max_episode_steps=STEPS,
    velocity_indices=(2, 3),
    reward=reward,
    termination=termination,
    reference_returns=(30.6, 849.51),
    simulation=EnvironmentSpec("gymnasium", ID),
    given=(
        4,
        5,
    ),  # nobody in the loop decides about the targets: in the models they follow the data
    becomes=(-1, -1, -1, -1, 4, 5),
)


def main() -> None:
    """Prints how far NeoRL-2's rows are from the equations."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file")
    with np.load(parser.parse_args().file) as file:
        columns = {name: np.asarray(file[name], np.float64) for name in file.files}
    after = advance(columns["obs"], columns["action"])
    motion = np.abs(after[:, :4] - columns["next_obs"][:, :4]).max()
    paid = np.abs(payment(columns["next_obs"]) - columns["reward"].ravel()).max()
    print(f"{len(after)} rows: states within {motion:.1e}, rewards within {paid:.1e}")


if __name__ == "__main__":
    main()
