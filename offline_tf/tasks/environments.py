"""Robots as other libraries simulate them: Gymnasium environments by id, and OpenAI Gym's -v2 ones.

The second kind needs the original tooling on Python 3.10 (requirements-original.txt, CONTRIBUTING.md).
Both have the interface of `simulator.Simulator`; many environments are stepped one after the other.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from typing import Any

import gymnasium
import numpy as np

from offline_tf.tasks.simulator import Simulator
from offline_tf.types import Array, EnvironmentSpec, SimulationSpec, TaskSpec, UserError

_DEFAULT_STEPS = 1000


def is_id(name: str) -> bool:
    """Whether NAME looks like an environment's id, such as Pendulum-v1 or module:Plant-v0."""
    return re.fullmatch(r"([\w.]+:)?[\w./-]+-v\d+", name) is not None


def task_of(name: str) -> TaskSpec:
    """Describes a Gymnasium environment; its reward and termination are learned from the data.

    Args:
      name: its id; one part before a colon is imported first.

    Raises:
      UserError: there is no such environment, or its spaces are not continuous vectors.
    """
    environment = _gymnasium(name)
    spaces = environment.observation_space, environment.action_space
    for kind, space in zip(("observation", "action"), spaces, strict=True):
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise UserError(
                f"--env: expected an environment with vectors of real numbers, but the {kind} space "
                f"of {name} is {space}"
            )
    low, high = (np.asarray(x, np.float32) for x in (spaces[1].low, spaces[1].high))
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise UserError(f"--env: expected bounded actions, but those of {name} are {spaces[1]}")
    limit = environment.spec.max_episode_steps if environment.spec else None
    dt = getattr(environment.unwrapped, "dt", None)
    environment.close()
    return TaskSpec(
        name=name,
        observation_names=tuple(f"observation_{i}" for i in range(spaces[0].shape[0])),
        action_names=tuple(f"action_{i}" for i in range(spaces[1].shape[0])),
        action_low=low,
        action_high=high,
        dt=float(dt) if isinstance(dt, int | float) and dt > 0 else 1.0,
        max_episode_steps=limit or _DEFAULT_STEPS,
        simulation=EnvironmentSpec("gymnasium", name),
    )


def in_library(task: TaskSpec, library: str) -> TaskSpec:
    """Returns the task as --simulator=LIBRARY runs it.

    Raises:
      UserError: the library does not have it.
    """
    if library == "mujoco":
        return task
    if not isinstance(task.simulation, SimulationSpec):
        raise UserError(f"--simulator={library}: expected one of the four robots, got {task.name}")
    spec = EnvironmentSpec("mujoco_py", f"{task.simulation.v2_key}-v2")
    return dataclasses.replace(task, simulation=spec)


def physics_of(task: TaskSpec, physics: str) -> str:
    """What a report calls the physics: "v2", or the environment and its library."""
    spec = task.simulation
    return f"{spec.library} {spec.id}" if isinstance(spec, EnvironmentSpec) else physics


def make_simulator(task: TaskSpec, physics: str, count: int, threads: int = 2) -> AnySimulator:
    """Makes `count` simulators of the task, whatever simulates it.

    Raises:
      UserError: the task has no simulator, or its library is not installed.
    """
    if isinstance(task.simulation, EnvironmentSpec):
        if task.simulation.library == "mujoco_py" and physics != "v2":
            raise UserError(
                f"--simulator=mujoco_py has the robots of --physics=v2 only, got {physics}"
            )
        return EnvironmentSimulator(task, physics, count)
    return Simulator(task, physics, count, threads)


def check_simulated(task: TaskSpec, physics: str) -> None:
    """Checks, by making one simulator, that episodes of the task can be run.

    Raises:
      UserError: see `make_simulator`.
    """
    make_simulator(task, physics, 1, threads=1)


def _gymnasium(name: str) -> Any:
    try:
        return gymnasium.make(name)
    except Exception as error:  # an environment may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--env: Gymnasium cannot make {name}: {reason}") from None


def _mujoco_py(name: str) -> Any:
    try:
        gym = importlib.import_module("gym")
        return gym.make(name)
    except Exception as error:  # ImportError, or what a failed build of mujoco_py raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            "--simulator=mujoco_py needs the original tooling on Python 3.10 "
            f"(./run.sh original-test installs it): {reason}"
        ) from None


class EnvironmentSimulator:
    """`count` environments of one task; attributes and methods as in `simulator.Simulator`.

    Attributes:
      task, physics, count, elapsed: see there.
    """

    def __init__(self, task: TaskSpec, physics: str, count: int) -> None:
        """Makes the environments; call `reset` before the first `step`."""
        assert isinstance(task.simulation, EnvironmentSpec)
        self.task = task
        self.physics = physics
        self.count = count
        make = _mujoco_py if task.simulation.library == "mujoco_py" else _gymnasium
        # Time limits are those of the task; the wrapped one would end episodes of its own.
        self._environments = [make(task.simulation.id).unwrapped for _ in range(count)]
        self._observations = np.zeros((count, task.state_dim), np.float32)
        self.elapsed = np.zeros(count, np.int64)

    @property
    def has_states(self) -> bool:
        """Whether physical states can be read and set."""
        return self._physical(0) is not None and hasattr(self._environments[0], "set_state")

    def _physical(self, index: int) -> Any:
        environment = self._environments[index]
        simulation = getattr(environment, "sim", environment)
        data = getattr(simulation, "data", None)
        return data if hasattr(data, "qpos") else None

    @property
    def qpos(self) -> Array:
        """[K, Q] positions; Q is 0 where the environment does not tell."""
        return self._states("qpos")

    @property
    def qvel(self) -> Array:
        """[K, V] velocities; V is 0 where the environment does not tell."""
        return self._states("qvel")

    def _states(self, name: str) -> Array:
        if self._physical(0) is None:
            return np.zeros((self.count, 0))
        return np.stack([getattr(self._physical(k), name).copy() for k in range(self.count)])

    def _chosen(self, mask: Array | None) -> list[int]:
        every = range(self.count)
        return [index for index in every if mask is None or mask[index]]

    def _set(self, index: int, observation: Array) -> None:
        # OpenAI Gym's Ant adds 84 contact forces that are always 0.
        self._observations[index] = observation[: self.task.state_dim]

    def observations(self) -> Array:
        """Returns [K, S] float32 observations of the present states."""
        return self._observations.copy()

    def reset(self, generator: np.random.Generator, which: Array | None = None) -> None:
        """Resets the environments where `which` ([K] bool, default all) is true."""
        for index in self._chosen(which):
            outcome = self._environments[index].reset(seed=int(generator.integers(2**31)))
            self._set(index, outcome[0] if isinstance(outcome, tuple) else outcome)
            self.elapsed[index] = 0

    def set_states(self, qpos: Array, qvel: Array, which: Array | None = None) -> None:
        """Sets physical states ([n, Q], [n, V]) of the environments where `which` is true.

        Raises:
          ValueError: see `has_states`.
        """
        if not self.has_states:
            raise ValueError(f"{self.task.name}: this environment's state cannot be set")
        for index, positions, velocities in zip(self._chosen(which), qpos, qvel, strict=True):
            environment = self._environments[index]
            environment.set_state(positions, velocities)
            self._set(index, environment._get_obs())
            self.elapsed[index] = 0

    def step(self, actions: Array) -> tuple[Array, Array]:
        """Advances all environments by one control step; see `simulator.Simulator.step`."""
        rewards, (terminated, cut) = np.zeros(self.count), np.zeros((2, self.count), bool)
        for index, environment in enumerate(self._environments):
            # In double precision, as our own simulator charges for actions.
            action = np.asarray(actions[index], np.float64)
            observation, rewards[index], terminated[index], *flags = environment.step(action)
            self._set(index, observation)
            cut[index] = len(flags) == 2 and flags[0]
        self.elapsed += 1
        # For callers an episode that the environment cuts for its own reasons has met its time limit.
        self.elapsed[cut] = np.maximum(self.elapsed[cut], self.task.max_episode_steps)
        return rewards, terminated


AnySimulator = Simulator | EnvironmentSimulator
