"""Natural policy gradient in the real simulator: how behaviour policies are made."""

from __future__ import annotations

from collections import deque

import numpy as np

from morel_tf.planning.policy_update import Paths
from offline_tf.policies.gaussian import NumpyPolicy
from offline_tf.tasks.simulator import Simulator
from offline_tf.types import Array


class OnlineSampler:
    """Steps many simulators with a policy; episodes go on from one block to the next.

    Attributes:
      simulator: the simulators, one path each.
      recent_returns: returns of the last episodes that ended.
      steps: environment steps so far.
    """

    def __init__(self, simulator: Simulator, generator: np.random.Generator) -> None:
        """Starts all episodes."""
        self.simulator = simulator
        self.recent_returns: deque[float] = deque(maxlen=100)
        self.steps = 0
        self._running = np.zeros(simulator.count)
        simulator.reset(generator)

    def state(self) -> dict[str, Array]:
        """Returns what a checkpoint must hold to go on."""
        return {
            "qpos": self.simulator.qpos.copy(),
            "qvel": self.simulator.qvel.copy(),
            "elapsed": self.simulator.elapsed.copy(),
            "running": self._running.copy(),
            "recent": np.array(self.recent_returns, np.float64),
            "steps": np.array(self.steps, np.int64),
        }

    def restore(self, state: dict[str, Array]) -> None:
        """Goes on from what `state` returned."""
        self.simulator.set_states(state["qpos"], state["qvel"])
        self.simulator.elapsed[:] = state["elapsed"]
        self._running[:] = state["running"]
        self.recent_returns = deque(state["recent"].tolist(), maxlen=100)
        self.steps = int(state["steps"])

    def sample(
        self, policy: NumpyPolicy, steps: int, generator: np.random.Generator
    ) -> tuple[Paths, dict[str, Array]]:
        """Takes `steps` control steps in each simulator with stochastic actions.

        Args:
          policy: acts.
          steps: T.
          generator: draws actions and start states.

        Returns:
          The [T, K] block, whose unfinished paths are cut at its end, and the physical states
          qpos [T, K, Q], qvel [T, K, V] before each step.
        """
        sim, task = self.simulator, self.simulator.task
        columns: dict[str, list[Array]] = {
            name: [] for name in (*Paths._fields, "qpos", "qvel") if name != "valid"
        }
        for step in range(steps):
            observations = sim.observations()
            actions = policy.sample(observations, generator)
            columns["times"].append(sim.elapsed.astype(np.float32))
            columns["qpos"].append(sim.qpos.copy())
            columns["qvel"].append(sim.qvel.copy())
            rewards, terminated = sim.step(task.clip_actions(actions))
            over = terminated | (sim.elapsed >= task.max_episode_steps)
            columns["observations"].append(observations)
            columns["actions"].append(actions)
            columns["rewards"].append(rewards)
            columns["next_observations"].append(sim.observations())
            columns["terminated"].append(terminated)
            columns["ended"].append(over if step < steps - 1 else np.ones_like(over))
            self._running += rewards
            self.recent_returns.extend(self._running[over].tolist())
            self._running[over] = 0.0
            sim.reset(generator, over)
        self.steps += steps * sim.count
        block = {name: np.stack(values) for name, values in columns.items()}
        physical = {name: block.pop(name) for name in ("qpos", "qvel")}
        return Paths(**block, valid=np.ones(block["ended"].shape, bool)), physical
