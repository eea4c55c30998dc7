"""Seconds of the pieces that a run is made of, measured on this machine; each takes about a second.

The least of several tries counts: other work on the machine can only lengthen a try.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from offline_tf.models import fitting, networks
from offline_tf.numerics.standardize import Statistics
from offline_tf.tasks import environments
from offline_tf.types import Array, TaskSpec, Tensor

_SECONDS = 0.4
_STEPS_PER_CALL = 5
_SIMULATORS, _SIMULATED = 64, 25


def least(call: Callable[[], Any]) -> float:
    """Seconds of the fastest of several calls; a first one, which traces graphs, is not counted.

    Without a GPU no try counts more than the processors' time that it took: the rest went to other
    processes.
    """
    alone = bool(tf.config.list_physical_devices("GPU"))
    call()
    tries: list[float] = []
    until = time.perf_counter() + _SECONDS
    while len(tries) < 2 or time.perf_counter() < until:
        began, busy = time.perf_counter(), time.process_time()
        call()
        spent = time.perf_counter() - began
        tries.append(spent if alone else min(spent, time.process_time() - busy))
    return min(tries)


def normal(*shape: int) -> Array:
    """Standard normal float32 numbers to measure with."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def plain(width: int, scale: float = 1.0) -> Statistics:
    """Statistics of data that are as good as standardised."""
    return Statistics(np.zeros(width, np.float32), np.full(width, scale, np.float32))


def adam_step(
    loop: fitting.Fit, columns: Sequence[Array | Tensor], members: int, batch_size: int
) -> float:
    """Seconds of one minibatch step of all members.

    Args:
      loop: the fit; its weights are changed.
      columns: of the data, [N, ..] each.
      members: M.
      batch_size: B.
    """
    count = len(columns[0])
    draws = np.random.default_rng(0)
    rows = draws.integers(count, size=(_STEPS_PER_CALL, members, batch_size), dtype=np.int32)
    arrays = tuple(tf.constant(column) for column in columns)
    order, rates = tf.constant(rows), tf.fill([_STEPS_PER_CALL], 1e-4)
    return least(lambda: loop.run(arrays, order, rates).numpy()) / _STEPS_PER_CALL


def regression_step(
    members: Sequence[Any], inputs: int, outputs: int, batch_size: int, dtype: tf.DType
) -> float:
    """Seconds of one minibatch step of networks [B, inputs] -> [B, outputs] by least squares."""

    def loss(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        return [
            tf.reduce_mean(tf.square(networks.bind(member, dtype)(x) - y))
            for member, (x, y) in zip(members, batches, strict=True)
        ]

    loop = fitting.Fit(networks.variables(*members), loss=loss)
    columns = normal(batch_size, inputs), normal(batch_size, outputs)
    return adam_step(loop, columns, len(members), batch_size)


def simulator_step(task: TaskSpec, physics: str, threads: int) -> float:
    """Seconds of one step of one simulator among many; 0 where the task has none."""
    if task.simulation is None:
        return 0.0
    count = _SIMULATORS if not hasattr(task.simulation, "library") else 2
    simulator = environments.make_simulator(task, physics, count, threads)
    draws = np.random.default_rng(0)
    simulator.reset(draws)

    def several() -> None:
        for _ in range(_SIMULATED):
            actions = draws.uniform(task.action_low, task.action_high, (count, task.action_dim))
            _, terminated = simulator.step(actions.astype(np.float32))
            simulator.reset(draws, terminated | (simulator.elapsed >= task.max_episode_steps))

    return least(several) / (_SIMULATED * count)


def endless(task: TaskSpec) -> TaskSpec:
    """The task with a reward, and without an end, so that paths of untrained models go on."""

    def nothing(states: Tensor, actions: Tensor, next_states: Tensor, physics: str) -> Tensor:
        return tf.zeros(tf.shape(states)[:1])

    def never(states: Tensor) -> Tensor:
        return tf.zeros(tf.shape(states)[:1], tf.bool)

    return dataclasses.replace(task, reward=task.reward or nothing, termination=never)
