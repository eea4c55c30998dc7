"""A planner in the real simulator, many episodes in one batch. For reporting only."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from offline_tf.evaluation import episodes as episode_loop
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
    *,
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
    memory = start(tf.constant(simulator.observations()))
    decision_ms: list[float] = []
    numbers: dict[str, Tensor] = {}

    def act(number: int, observations: Array) -> Array:
        nonlocal memory, numbers
        began = time.perf_counter()
        key = seeds.stateless(seed, f"simulation/{name}/plan", number)
        actions, memory, numbers = decide(tf.constant(observations), memory, key)
        in_numpy = actions.numpy()
        decision_ms.append(1e3 * (time.perf_counter() - began))
        return in_numpy

    def refill(number: int) -> np.random.Generator:
        return seeds.generator(seed, f"simulation/{name}/refill", number)

    columns = {w: task.observation_names.index(w) for w in watched}
    lengths = np.zeros(episodes, np.int64)
    traces: dict[str, list[Array]] = {}
    observed: dict[str, list[Array]] = {w: [] for w in watched}
    for step in episode_loop.steps(simulator, act, refill, limit=task.max_episode_steps):
        if not np.isfinite(step.rewards[step.alive]).all():
            raise UserError(
                f"--env={task.name}: expected finite rewards, got NaN or infinity in step "
                f"{step.number + 1}"
            )
        row = {"reward": step.rewards} | {k: v.numpy() for k, v in numbers.items()}
        for key, values in row.items():
            in_float64 = np.asarray(values, np.float64)
            traces.setdefault(key, []).append(np.where(step.alive, in_float64, np.nan))
        for key, column in columns.items():
            seen = step.observations[:, column]
            observed[key].append(np.where(step.alive, seen, np.nan))
        lengths += step.alive
        if progress:
            progress(step.number + 1)
    by_step = {key: np.stack(rows) for key, rows in traces.items()}
    return Rollouts(
        returns=np.nansum(by_step["reward"], axis=0),
        lengths=lengths,
        traces=by_step,
        observed={key: np.stack(rows) for key, rows in observed.items()},
        decision_ms=np.array(decision_ms),
    )
