"""Episodes in the set's simulator: the same 100 for every policy of the bench."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from offline_tf.evaluation import episodes as episode_loop
from offline_tf.numerics import seeds
from offline_tf.tasks import environments
from offline_tf.types import Array, TaskSpec

EPISODES = 100


def returns(
    act: Callable[[Array, np.random.Generator], Array],
    *,
    task: TaskSpec,
    physics: str,
    episodes: int = EPISODES,
    seed: int = 0,
    threads: int = 1,
) -> Array:
    """Returns [E] of whole episodes; their start states depend on the seed alone.

    Args:
      act: (observations [E, S], generator) -> actions [E, A], clipped here.
      task, physics: where.
      episodes: E.
      seed: of start states and of what `act` draws.
      threads: of the simulators.
    """
    draws = seeds.generator(seed, "robustness/actions")
    simulator = environments.make_simulator(task, physics, episodes, threads)
    simulator.reset(seeds.generator(seed, "robustness/start"))
    refills = seeds.generator(seed, "robustness/refill")
    total = np.zeros(episodes)
    for step in episode_loop.steps(
        simulator,
        lambda _, observations: act(observations, draws),
        refill=lambda _: refills,
        limit=task.max_episode_steps,
    ):
        total += np.where(step.alive, step.rewards, 0.0)
    return total


def summary(found: Array) -> dict[str, Any]:
    """What a record keeps of E returns, under the names of every algorithm's summary."""
    return {
        "true_return_mean": float(found.mean()),
        "true_return_std": float(found.std(ddof=1)) if len(found) > 1 else 0.0,
        "episodes": len(found),
    }
