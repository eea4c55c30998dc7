"""A planner in the real simulator, many episodes in one batch. For reporting only."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from offline_tf.numerics import seeds
from offline_tf.tasks import environments
from offline_tf.types import Array, TaskSpec, Tensor, UserError


class Rollouts(NamedTuple):
    """What E episodes of at most T steps yielded.

    Attributes:
      returns, lengths: [E].
      traces: name -> [T, E] per step (NaN after the end): "reward" and the planner's own numbers.
      observed: name -> [T, E] observations that were asked for, after the step.
      decision_ms: [T] milliseconds of one call for all E environments.
    """

    returns: Array
    lengths: Array
    traces: dict[str, Array]
    observed: dict[str, Array]
    decision_ms: Array


Decide = Callable[[Tensor, Any, Tensor], tuple[Tensor, Any, dict[str, Tensor]]]


def run(
    task: TaskSpec,
    physics: str,
    episodes: int,
    start: Callable[[Tensor], Any],
    decide: Decide,
    seed: int,
    name: str,
    watched: tuple[str, ...] = (),
    threads: int = 2,
    progress: Callable[[int], None] | None = None,
) -> Rollouts:
    """Runs E episodes side by side; an episode that has ended is stepped no further in the numbers.

    Args:
      task, physics: where.
      episodes: E.
      start: first observations [E, S] -> the planner's memory.
      decide: (observations [E, S], memory, seed [2]) -> actions [E, A] within the bounds, memory,
        numbers [E] to keep.
      seed, name: of the random streams.
      watched: names of observations to keep.
      threads: of the simulators.
      progress: called with the number of steps done.

    Returns:
      Rollouts.
    """
    simulator = environments.make_simulator(task, physics, episodes, threads)
    simulator.reset(seeds.generator(seed, f"simulation/{name}/start"))
    observations = simulator.observations()
    memory = start(tf.constant(observations))
    columns = [task.observation_names.index(w) for w in watched]
    alive = np.ones(episodes, bool)
    lengths = np.zeros(episodes, np.int64)
    rows: list[dict[str, Array]] = []
    looks: list[dict[str, Array]] = []
    spent = []
    for step in range(task.max_episode_steps):
        began = time.perf_counter()
        key = seeds.stateless(seed, f"simulation/{name}/plan", step)
        action, memory, numbers = decide(tf.constant(observations), memory, key)
        drawn = action.numpy()
        spent.append(1e3 * (time.perf_counter() - began))
        rewards, terminated = simulator.step(task.clip_actions(drawn))
        if not np.isfinite(rewards[alive]).all():
            raise UserError(
                f"--env={task.name}: expected finite rewards, got NaN or infinity in step {step + 1}"
            )
        observations = simulator.observations()
        row = {"reward": rewards} | {k: v.numpy() for k, v in numbers.items()}
        seen = {w: observations[:, c] for w, c in zip(watched, columns, strict=True)}
        looks.append({k: np.where(alive, v, np.nan) for k, v in seen.items()})
        rows.append({k: np.where(alive, np.asarray(v, np.float64), np.nan) for k, v in row.items()})
        lengths += alive
        over = terminated | (simulator.elapsed >= task.max_episode_steps)
        alive &= ~over
        if progress:
            progress(step + 1)
        if not alive.any():
            break
        if over.any():
            # A fallen robot is put back so that its simulator stays numerically sane.
            simulator.reset(seeds.generator(seed, f"simulation/{name}/refill", step), over)
            observations = simulator.observations()
    traces = {k: np.stack([row[k] for row in rows]) for k in rows[0]}
    observed = {k: np.stack([look[k] for look in looks]) for k in watched}
    returns = np.nansum(traces["reward"], axis=0)
    return Rollouts(returns, lengths, traces, observed, np.array(spent))
