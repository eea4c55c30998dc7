"""Episodes in the real simulator, many side by side: the loop of every evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from offline_tf.types import Array, TaskSpec


class Step(NamedTuple):
    """One control step of E episodes.

    Attributes:
      number: 0 for the first.
      alive: [E] bool, the episodes that had not ended before it; only their numbers count.
      rewards: [E].
      observations: [E, S], after the step.
    """

    number: int
    alive: Array
    rewards: Array
    observations: Array


class Steppable(Protocol):
    """What episodes run in: a simulator, or models in its place; see `tasks.simulator.Simulator`."""

    task: TaskSpec
    count: int
    elapsed: Array

    def observations(self) -> Array: ...  # noqa: D102
    def step(self, actions: Array) -> tuple[Array, Array]: ...  # noqa: D102
    def reset(  # noqa: D102
        self, generator: np.random.Generator, which: Array | None = None
    ) -> None: ...


def steps(
    simulator: Steppable,
    act: Callable[[int, Array], Array],
    refill: Callable[[int], np.random.Generator],
    limit: int,
) -> Iterator[Step]:
    """Runs one episode in each simulator until all have ended.

    Args:
      simulator: of E robots in their start states; its task sets bounds and time limit.
      act: (step number, observations [E, S]) -> actions [E, A], clipped here.
      refill: step number -> generator of new start states for robots whose episode ended there.
      limit: steps at most.

    Yields:
      A Step each.
    """
    task = simulator.task
    alive = np.ones(simulator.count, bool)
    observations = simulator.observations()
    for number in range(limit):
        actions = act(number, observations)
        rewards, terminated = simulator.step(task.clip_actions(actions))
        observations = simulator.observations()
        yield Step(number, alive, rewards, observations)
        over = terminated | (simulator.elapsed >= task.max_episode_steps)
        alive = alive & ~over
        if not alive.any():
            return
        if over.any():
            # A fallen robot is put back so that its simulator stays numerically sane.
            simulator.reset(refill(number), over)
            observations = simulator.observations()
