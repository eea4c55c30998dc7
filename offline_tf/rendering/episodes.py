"""Episodes to look at: a controller in a simulator, a picture every few steps."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np

from offline_tf import install_hints
from offline_tf.types import Array, EnvironmentSpec, TaskSpec, UserError


class JudgedAction(NamedTuple):
    """What a controller does in one step.

    Attributes:
      action: [A].
      verdict: words for the picture; may be empty.
      doubtful: the data do not support the action.
    """

    action: Array
    verdict: str = ""
    doubtful: bool = False


class Frame(NamedTuple):
    """One picture of a film, and what is written on it.

    Attributes:
      title: of the episode; may be empty.
      seconds: since the episode began.
      reward: summed so far.
      verdict, doubtful: as in `JudgedAction`; doubtful where any step until the next picture is.
      drawn: qpos [Q], or the picture itself [H, W, 3].
    """

    title: str
    seconds: float
    reward: float
    verdict: str
    doubtful: bool
    drawn: Array


class SteppedSimulator(Protocol):
    """One simulator that steps; see `tasks.simulator.Simulator`."""

    def reset(self, generator: np.random.Generator) -> None:
        """Begins an episode."""

    def observations(self) -> Array:
        """[1, S]."""
        ...

    def step(self, actions: Array) -> tuple[Array, Array]:
        """[1, A] -> rewards [1], terminated [1]."""
        ...


class Scene(NamedTuple):
    """Where a controller is filmed.

    Attributes:
      simulator: of one robot.
      model: its MuJoCo model, or None where an environment draws itself.
      look: returns what is to be drawn of the present state: qpos [Q] or a picture [H, W, 3].
      dt: seconds per control step.
    """

    simulator: SteppedSimulator
    model: Any
    look: Callable[[], Array]
    dt: float


def play(
    task: TaskSpec,
    *,
    scene: Scene,
    act: Callable[[Array], JudgedAction],
    steps: int,
    stride: int,
    generator: np.random.Generator,
    title: str = "",
) -> list[Frame]:
    """Runs one episode.

    Args:
      task: bounds of the actions.
      scene: where.
      act: observation [S] -> what is done.
      steps: at most.
      stride: control steps from one picture to the next.
      generator: of the start state.
      title: to be written on its pictures.

    Returns:
      Its pictures in time order; the last one is the state after the last step.
    """
    simulator, look, dt = scene.simulator, scene.look, scene.dt
    simulator.reset(generator)
    total, step, ended = 0.0, 0, False
    frames: list[Frame] = []
    while step < steps and not ended:
        judged = act(simulator.observations()[0])
        if step % stride == 0:
            frames.append(Frame(title, step * dt, total, judged.verdict, judged.doubtful, look()))
        elif judged.doubtful:
            frames[-1] = frames[-1]._replace(verdict=judged.verdict, doubtful=True)
        rewards, terminated = simulator.step(task.clip_actions(judged.action)[None])
        total, ended = total + float(rewards[0]), bool(terminated[0])
        step += 1
    return [*frames, Frame(title, step * dt, total, "ended" if ended else "", False, look())]


class FilmedEnvironment:
    """A Gymnasium environment that can be looked at; see `SteppedSimulator`.

    Attributes:
      model: its MuJoCo model, or None where it draws itself.
      dt: seconds per control step.
    """

    def __init__(self, task: TaskSpec) -> None:
        """Makes it.

        Raises:
          UserError: it does not make pictures.
        """
        assert isinstance(task.simulation, EnvironmentSpec)
        self._task = task
        name = task.simulation.id
        try:
            self._environment: Any = gymnasium.make(name, render_mode="rgb_array").unwrapped
            self._environment.reset(seed=0)
            self.model = getattr(self._environment, "model", None)
            if not hasattr(self.model, "geom_size"):
                self.model = None
                self._environment.render()
        except Exception as error:  # an environment may raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"--env: Gymnasium's {name} makes no pictures here: {reason}; its classic environments "
                f"need {install_hints.install('requirements-render.txt')}"
            ) from None
        rate = self._environment.metadata.get("render_fps") or 30
        self.dt = task.dt if hasattr(self._environment, "dt") else 1.0 / rate
        self._observation = np.zeros(task.state_dim, np.float32)

    def reset(self, generator: np.random.Generator) -> None:
        """See `SteppedSimulator`."""
        self._observation, _ = self._environment.reset(seed=int(generator.integers(2**31)))

    def observations(self) -> Array:
        """See `SteppedSimulator`."""
        return np.asarray(self._observation, np.float32)[None]

    def step(self, actions: Array) -> tuple[Array, Array]:
        """See `SteppedSimulator`."""
        action = np.asarray(actions[0], np.float64)
        self._observation, reward, terminated, *_ = self._environment.step(action)
        return np.array([reward], float), np.array([terminated], bool)

    def look(self) -> Array:
        """Its qpos [Q], or its own picture [H, W, 3]."""
        if self.model is not None:
            return self._environment.data.qpos.copy()
        return np.array(self._environment.render())


def open_scene(task: TaskSpec, physics: str) -> Scene:
    """Makes the simulator of a task.

    MuJoCo is imported here, and not before: callers take MUJOCO_GL away from it first.

    Raises:
      UserError: it does not make pictures.
    """
    if isinstance(task.simulation, EnvironmentSpec):
        environment = FilmedEnvironment(task)
        return Scene(environment, environment.model, environment.look, environment.dt)
    module = importlib.import_module("offline_tf.tasks.simulator")
    simulator = module.Simulator(task, physics, 1, threads=1)
    return Scene(simulator, simulator.model, lambda: simulator.qpos[0].copy(), task.dt)
