"""Controllers in a loop with a simulated plant: PI, the log's operators, exports.

examples/reactor.py and examples/drive.py run it. A plant is an object with

  measured() -> [S'], the signals of its .toml's [[observations]], as instruments show them
  step(action [A]) -> None, one control step
  tripped -> bool, whether its protection has stopped it
  action_before [A], what was done before the episode
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from offline_tf.export.recent_rows import RecentRows
from offline_tf.types import TaskSpec


class Plant(Protocol):
    """See the module's words."""

    tripped: bool
    action_before: np.ndarray

    def measured(self) -> np.ndarray:
        """[S'] as instruments show it."""

    def step(self, action: np.ndarray) -> None:
        """One control step."""


class Controller(Protocol):
    """Acts for several plants at once."""

    def reset(self) -> None:
        """Begins episodes."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """[B, S] -> [B, A]."""


class PI:
    """A proportional-integral controller of the signal `controlled`, with the integral held at bounds.

    Attributes:
      gain: action per error.
      integral_steps: of the reset time.
    """

    def __init__(
        self,
        task: TaskSpec,
        *,
        controlled: str,
        wanted: str,
        gain: float,
        integral_steps: float,
        resting: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        """Sets it up.

        Args:
          task: names and bounds.
          controlled, wanted: the signal and its set point.
          gain, integral_steps: see the class.
          resting: wanted [B] -> the action [B] that would hold it, about.
        """
        names = list(task.observation_names)
        self._at, self._wanted = names.index(controlled), names.index(wanted)
        self._low, self._high = float(task.action_low[0]), float(task.action_high[0])
        self.gain, self.integral_steps, self._resting = gain, integral_steps, resting
        self._sum: np.ndarray | float = 0.0

    def reset(self) -> None:
        """Forgets the integral."""
        self._sum = 0.0

    def act(self, observation: np.ndarray) -> np.ndarray:
        """[B, S] -> [B, 1]."""
        wanted = observation[:, self._wanted].astype(np.float64)
        error = wanted - observation[:, self._at]
        raw = self._resting(wanted) + self.gain * (error + self._sum)
        inside = (self._low < raw) & (raw < self._high)
        self._sum = self._sum + np.where(inside, error, 0.0) / self.integral_steps
        return np.clip(raw, self._low, self._high)[:, None]


class StepTest(NamedTuple):
    """A first-order model with dead time, from a step of the action (two points of the answer).

    Attributes:
      gain: of the signal per action.
      time_steps, dead_steps: constants, in control steps.
    """

    gain: float
    time_steps: float
    dead_steps: float

    @classmethod
    def of(cls, answer: np.ndarray, action_step: float) -> StepTest:
        """Reads the times of 28 % and 63 % of the change (Smith 1972).

        Args:
          answer: [T] of the signal, at rest before and at the end.
          action_step: how far the action was moved.
        """
        change = answer[-1] - answer[0]
        share = (answer - answer[0]) / change
        at_28, at_63 = (float(np.argmax(share >= level)) for level in (0.283, 0.632))
        constant = max(1.5 * (at_63 - at_28), 1.0)
        return cls(float(change / action_step), constant, max(at_63 - constant, 0.5))

    def simc(self) -> tuple[float, float]:
        """Gain and integral time of a PI by SIMC (Skogestad 2003), its time constant the dead time."""
        gain = self.time_steps / (self.gain * 2.0 * self.dead_steps)
        return gain, min(self.time_steps, 8.0 * self.dead_steps)


class Judged(NamedTuple):
    """Episodes of a controller.

    Attributes:
      returns: [E].
      trips: how many tripped.
      measured: [T, E, S'] and actions [T, E, A]; NaN after a trip.
    """

    returns: np.ndarray
    trips: int
    measured: np.ndarray
    actions: np.ndarray


def run(task: TaskSpec, plants: Sequence[Plant], controller: Controller) -> Judged:
    """Runs a controller in several plants at once until they trip, or for an episode's steps.

    Args:
      task: of the .toml: its reward and length.
      plants: [E], at the beginning of an episode.
      controller: acts.
    """
    assert task.reward is not None
    rows = RecentRows(task.observation_names, task.action_names)
    controller.reset()
    measured = np.stack([plant.measured() for plant in plants])
    observation = rows.observe(measured, np.stack([plant.action_before for plant in plants]))
    alive, returns, seen, done = np.ones(len(plants), bool), np.zeros(len(plants)), [], []
    for _ in range(task.max_episode_steps):
        action = task.clip_actions(controller.act(observation))
        for index in np.flatnonzero(alive):
            plants[int(index)].step(action[index].astype(np.float64))
        seen.append(np.where(alive[:, None], measured, np.nan))
        done.append(np.where(alive[:, None], action, np.nan))
        rows.acted(action)
        measured = np.stack([plant.measured() for plant in plants])
        following = rows.observe(measured)
        before, taken, after = map(tf.constant, (observation, action, following))
        paid = task.reward(before, taken, after, "").numpy()
        returns += np.where(alive, paid, 0.0)
        alive &= ~np.array([plant.tripped for plant in plants])
        observation = following
    return Judged(returns, int((~alive).sum()), np.stack(seen), np.stack(done))


def load(path: pathlib.Path) -> Any:
    """An export of either algorithm."""
    from offline_tf.export import loaded

    kind = loaded.Deployed(path)
    return loaded.Planner(path) if "plan" in kind.signatures else loaded.Controller(path)


def tell(name: str, judged: Judged) -> str:
    """A line of the table."""
    error = judged.returns.std(ddof=1) / np.sqrt(len(judged.returns))
    return (
        f"{name:<24}{judged.returns.mean():10.1f} +- {error:.1f}   {judged.trips} trips in "
        f"{len(judged.returns)} episodes"
    )


def command(
    words: list[str],
    write_log: Callable[[pathlib.Path], int],
    controllers: Callable[[], dict[str, Controller]],
    judge: Callable[[Controller], Judged],
) -> None:
    """What both examples do: `log FILE` writes the log, `judge RUN ...` tells of controllers."""
    if words[:1] == ["log"] and len(words) == 2:
        print(f"{write_log(pathlib.Path(words[1]))} trips")
    elif words[:1] == ["judge"]:
        found = controllers() | {path: load(pathlib.Path(path)) for path in words[1:]}
        for name, controller in found.items():
            print(tell(name, judge(controller)))
    else:
        raise SystemExit("expected: log FILE, or judge RUN ...")
