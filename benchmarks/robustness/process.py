"""Two plants as PC-Gym simulates them; reward and termination are learned from the log.

--env=benchmarks/robustness/process.py:CSTR     a stirred tank reactor, cooled to keep a concentration
--env=benchmarks/robustness/process.py:TANKS    four coupled tanks, two pumps that keep two levels

Needs pcgym (requirements-plants.txt). An episode has one setpoint, which is observed. The reward is
PC-Gym's: minus the squared distance to the setpoint, scaled.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import gymnasium
import numpy as np

from offline_tf.types import Array, EnvironmentSpec, TaskSpec


@dataclasses.dataclass(frozen=True)
class Plant:
    """What PC-Gym is told.

    Attributes:
      model: its name there.
      controlled: states that have setpoints.
      low, high: of the start states, then of the setpoints.
      reward_scale: of each squared distance.
      task: names, bounds, seconds and steps.
    """

    model: str
    controlled: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    reward_scale: float
    task: TaskSpec


def _task(name: str, *, observations: str, actions: str, low: float, high: float) -> TaskSpec:
    action_names = tuple(actions.split())
    bounds = np.ones(len(action_names), np.float32)
    return TaskSpec(
        name=name,
        observation_names=tuple(observations.split()),
        action_names=action_names,
        action_low=low * bounds,
        action_high=high * bounds,
        dt=0.25 if name == "cstr" else 10.0,
        max_episode_steps=100,
        simulation=EnvironmentSpec("gymnasium", f"PCGym-{name}-v0"),
    )


CSTR = _task(
    "cstr",
    observations="concentration temperature wanted_concentration",
    actions="coolant_temperature",
    low=295.0,
    high=302.0,
)
TANKS = _task(
    "tanks",
    observations="level1 level2 level3 level4 wanted_level1 wanted_level2",
    actions="pump1 pump2",
    low=1.0,
    high=10.0,
)
PLANTS = (
    Plant("cstr", ("Ca",), (0.75, 320.0, 0.8), (0.95, 335.0, 0.92), 1e3, CSTR),
    Plant("four_tank", ("h1", "h2"), (0.03,) * 6, (0.2,) * 6, 1e3, TANKS),
)


def cool(observations: Array) -> Array:
    """A weak proportional controller of the reactor: warmer where the concentration is too high."""
    too_high = observations[:, :1] - observations[:, 2:3]
    return 299.0 + 40.0 * too_high


def pump(observations: Array) -> Array:
    """Proportional controllers of the tanks; each pump feeds the other tank's level most."""
    missing = observations[:, 4:6] - observations[:, :2]
    return 4.5 + 30.0 * missing[:, ::-1]


class Environment(gymnasium.Env):
    """PC-Gym's plant with a start state and a setpoint of its own in each episode."""

    def __init__(self, plant: Plant) -> None:
        """Makes the plant.

        Raises:
          ModuleNotFoundError: pcgym is not installed.
        """
        self._spec, task = plant, plant.task
        self.dt = task.dt
        self._steps = task.max_episode_steps
        count = self._steps + 2  # PC-Gym calls its last step but one a terminal one
        width = len(plant.low)
        bounds = {"low": np.full(width, -np.inf), "high": np.full(width, np.inf)}
        self._plant = importlib.import_module("pcgym").make_env(
            {
                "model": plant.model,
                "N": count,
                "tsim": task.dt * count,
                "SP": {name: np.zeros(count) for name in plant.controlled},
                "x0": np.array(plant.low),
                "o_space": bounds,
                "a_space": {"low": task.action_low, "high": task.action_high},
                "r_scale": {name: plant.reward_scale for name in plant.controlled},
                "normalise_a": False,
                "normalise_o": False,
            }
        )
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.action_space = gymnasium.spaces.Box(task.action_low, task.action_high)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Draws start state and setpoint."""
        super().reset(seed=seed, options=options)
        start = self.np_random.uniform(self._spec.low, self._spec.high)
        self._plant.env_params["x0"] = start
        wanted = start[-len(self._spec.controlled) :]
        count = self._steps + 2
        self._plant.SP = {
            name: np.full(count, value) for name, value in zip(self._spec.controlled, wanted)
        }
        observation, _ = self._plant.reset()
        return np.asarray(observation, np.float32), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One control step."""
        observation, reward, *_ = self._plant.step(np.asarray(action, np.float64))
        over = self._plant.t >= self._steps
        return np.asarray(observation, np.float32), float(reward), False, over, {}


for _plant in PLANTS:
    assert isinstance(_plant.task.simulation, EnvironmentSpec)
    if _plant.task.simulation.id not in gymnasium.registry:  # this file may run under two names
        gymnasium.register(
            _plant.task.simulation.id,
            entry_point=lambda **settings: Environment(**settings),
            kwargs={"plant": _plant},
            disable_env_checker=True,
        )
