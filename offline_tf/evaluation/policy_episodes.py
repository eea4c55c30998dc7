"""Returns of a policy in the real simulator. For reporting only: nothing is chosen by them."""

from __future__ import annotations

import dataclasses

import numpy as np

from offline_tf.evaluation import episodes as episode_loop
from offline_tf.numerics import seeds
from offline_tf.policies.gaussian import NumpyPolicy
from offline_tf.tasks import environments
from offline_tf.types import Array, TaskSpec


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns [E] and lengths [E] (steps) of whole episodes."""

    returns: Array
    lengths: Array

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation over episodes (n - 1)."""
        return float(self.returns.std(ddof=1)) if len(self.returns) > 1 else 0.0


def evaluate(
    policy: NumpyPolicy,
    *,
    task: TaskSpec,
    physics: str,
    episodes: int,
    stochastic: bool,
    seed: int,
    name: str,
    horizon: int | None = None,
    starts: tuple[Array, Array] | None = None,
    threads: int = 2,
) -> Evaluation:
    """Runs `episodes` episodes at once; actions are clipped to the bounds.

    Args:
      policy: acts.
      task, physics: where.
      episodes: E.
      stochastic: draw actions, or act by the mean.
      seed, name: of the random stream.
      horizon: steps at most; default the task's time limit.
      starts: physical states (qpos [n, Q], qvel [n, V]) to draw start states from; default the
        task's own start distribution, as where the simulator's state cannot be set.
      threads: of the simulators.

    Returns:
      An Evaluation.
    """
    generator = seeds.generator(seed, f"evaluation/{name}/{'sample' if stochastic else 'mean'}")
    simulator = environments.make_simulator(task, physics, episodes, threads)
    simulator.reset(generator)
    if starts is not None and simulator.has_states:
        rows = generator.integers(len(starts[0]), size=episodes)
        simulator.set_states(starts[0][rows], starts[1][rows])

    def act(_: int, observations: Array) -> Array:
        return policy.sample(observations, generator) if stochastic else policy.mean(observations)

    limit = task.max_episode_steps if horizon is None else horizon
    returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
    for step in episode_loop.steps(simulator, act, refill=lambda _: generator, limit=limit):
        returns += np.where(step.alive, step.rewards, 0.0)
        lengths += step.alive
    return Evaluation(returns, lengths)
