"""The data types that every module shares, and the letters that shapes are written in.

Letters: B batch, N data rows, M ensemble members, K trajectories, H horizon (steps), S state
dimension, A action dimension, T episode steps.

An *observation* is what a simulator or a data file shows (velocities of Hopper and Walker2d are
clipped there); a *state* is what the dynamics models predict. They have the same layout, and are
equal where nothing is clipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray
Tensor = Any  # tf.Tensor; typed loosely because TensorFlow ships no type stubs.


class UserError(Exception):
    """Bad input. Binaries print its one line and exit with status 2."""


@dataclasses.dataclass(frozen=True)
class Transitions:
    """Logged transitions in time order, episode after episode.

    Attributes:
      observations: [N, S] float32, the observation that the action was taken in.
      actions: [N, A] float32, as logged.
      rewards: [N] float32.
      next_observations: [N, S] float32, the observation after the action, never of another episode;
        NaN all over a terminal row where it was not recorded, see `next_known`.
      terminals: [N] bool, the episode ended in a terminal state (no value beyond it).
      timeouts: [N] bool, the episode was cut here for another reason (its value goes on).
      qpos: [N, Q] float64 or None, simulator positions before the action.
      qvel: [N, V] float64 or None, simulator velocities before the action.
    """

    observations: Array
    actions: Array
    rewards: Array
    next_observations: Array
    terminals: Array
    timeouts: Array
    qpos: Array | None = None
    qvel: Array | None = None

    def __post_init__(self) -> None:
        """Checks that all columns describe the same rows."""
        rows = len(self.observations)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and len(value) != rows:
                raise UserError(
                    f"transitions: expected {rows} rows in {field.name} as in observations, "
                    f"got {len(value)}; the file is damaged or mixes data sets"
                )
        if self.observations.shape != self.next_observations.shape:
            raise UserError(
                f"transitions: observations are {self.observations.shape} but next_observations "
                f"{self.next_observations.shape}; expected equal shapes"
            )

    def __len__(self) -> int:
        """Number of transitions N."""
        return len(self.observations)

    @property
    def next_known(self) -> Array:
        """[N] bool, rows whose next observation was recorded; see the function `next_known`."""
        return next_known(self.next_observations, self.terminals)

    def episode_bounds(self) -> Array:
        """Returns [E, 2] int64: first row and one past the last row of each episode."""
        ends = np.flatnonzero(self.terminals | self.timeouts) + 1
        if len(self) and (not len(ends) or ends[-1] != len(self)):
            ends = np.append(ends, len(self))
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        return np.stack([starts, ends], axis=1).astype(np.int64)

    def predictable_bounds(self) -> Array:
        """`episode_bounds` without the last row where its next observation is not known.

        An episode of one such row is empty.
        """
        bounds = self.episode_bounds()
        if len(bounds):
            bounds[:, 1] -= ~self.next_known[bounds[:, 1] - 1]
        return bounds

    def episodes(self) -> Iterator[slice]:
        """Yields one slice of rows per episode."""
        for start, end in self.episode_bounds():
            yield slice(int(start), int(end))

    def episode_returns(self) -> Array:
        """Returns [E] float64, the undiscounted return of each episode."""
        sums = np.concatenate([[0.0], np.cumsum(self.rewards, dtype=np.float64)])
        bounds = self.episode_bounds()
        return sums[bounds[:, 1]] - sums[bounds[:, 0]]


def next_known(next_observations: Array, terminals: Array) -> Array:
    """Which rows have a next observation.

    Terminal rows may lack it: many files hold no next_observations. Such a row counts wherever
    nothing of s' is asked: Q (its target is the reward), cloning, returns. What is fitted to s', or
    measured by it, takes the other rows. NaN stands in its place, so that a use that forgets this
    is seen at once.

    Args:
      next_observations: [n, S]; NaN in all of a terminal row says that it is not known.
      terminals: [n], bool or 0 and 1.

    Returns:
      [n] bool.
    """
    known = np.ones(len(next_observations), bool)
    rows = np.flatnonzero(terminals)
    known[rows] = ~np.isnan(next_observations[rows]).all(axis=1)
    return known


@dataclasses.dataclass(frozen=True)
class SimulationSpec:
    """How a task is simulated in MuJoCo.

    Attributes:
      xml: physics name -> file name among Gymnasium's MuJoCo assets.
      v2_key: name in v2_physics.json of the masses and inertias of the -v2 robot.
      frame_skip: physics steps per control step.
      observe: (qpos [B, Q], qvel [B, V]) -> observation [B, S].
      healthy: (qpos [B, Q], qvel [B, V]) -> [B] bool; False ends the episode.
      start: (generator, count, qpos0 [Q], V) -> start states qpos [count, Q], qvel [count, V].
      contact_cost: physics -> weight of the external contact forces in the reward.
    """

    xml: dict[str, str]
    v2_key: str
    frame_skip: int
    observe: Callable[[Array, Array], Array]
    healthy: Callable[[Array, Array], Array]
    start: Callable[[np.random.Generator, int, Array, int], tuple[Array, Array]]
    contact_cost: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class EnvironmentSpec:
    """A task that another library simulates.

    Attributes:
      library: "gymnasium" or "mujoco_py".
      id: of the environment there.
    """

    library: str
    id: str


@dataclasses.dataclass(frozen=True)
class Signal:
    """A measurement or a command in a plant's log.

    Attributes:
      name: in the task, and in expressions.
      column: of the table.
      resample: how samples become one value a step: "mean", "last" or "linear".
      hold_seconds: how old a sample may be; a longer silence ends an episode.
    """

    name: str
    column: str
    resample: str
    hold_seconds: float


@dataclasses.dataclass(frozen=True)
class LogSpec:
    """How a plant's log becomes steps of a task.

    Attributes:
      time: column of the time stamps.
      time_format: "seconds", "iso", or as in strptime.
      observations, actions: signals, in the task's order.
      max_gap_seconds: between rows, above which an episode ends.
      idle_seconds: stretches in which no action moves for so long are left out; infinity: none are.
      reward: column that is averaged over a step; empty: rewards come from the task, or are 0.
      adds_rewards: whether the column holds payments, which are added up, 0 where there are none.
      history: rows that an observation holds, the current one included.
      time_of_day: whether an observation holds sine and cosine of the time of day.
      limit_price: reward that a unit of `TaskSpec.violation` costs.
      tag, value: columns of a table of (tag, time, value), whose tags are the signals' columns; empty
        where a signal is a column.
      date: column of the dates where `time` holds the time of day alone; else empty.
      batch: column that says which run a row is of, where clocks begin anew in each; else empty.
    """

    time: str
    time_format: str
    observations: tuple[Signal, ...]
    actions: tuple[Signal, ...]
    max_gap_seconds: float
    idle_seconds: float = float("inf")
    reward: str = ""
    adds_rewards: bool = False
    history: int = 1
    time_of_day: bool = False
    limit_price: float = 0.0
    tag: str = ""
    value: str = ""
    date: str = ""
    batch: str = ""


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """A control task: what is observed, what is paid, when it ends.

    Attributes:
      name: the value of --env.
      observation_names: S names, in the order of the observation.
      action_names: A names.
      action_low, action_high: [A] bounds.
      dt: seconds per control step.
      max_episode_steps: control steps until the time limit.
      velocity_indices: positions of the velocities within the observation.
      reward: (s [B,S], a [B,A], s' [B,S], physics) -> [B], a TensorFlow function of states; None:
        learned from the data (`models/learned_task.py`).
      termination: (s' [B,S]) -> [B] bool, a TensorFlow function; None: learned from the data.
      alive_bonus: reward per step for being healthy.
      control_cost: weight of the squared action.
      velocity_limit: bound to which the observation clips velocities, or None.
      finite_difference: pairs (velocity index, position index) whose velocity is the time
        derivative of that observed position.
      reference_returns: (random, expert) returns of D4RL that scores 0 and 100 stand for, or None.
      simulation: how to simulate it, or None where no simulator exists.
      log: how tables of time stamps become steps, or None where a row is a step.
      becomes: S numbers, of the column of (observation, action) that stands in this place of the next
        observation; -1 where only the plant can tell. Empty where an observation has no past.
        A given signal becomes itself: that is the best guess where no log is followed.
      given: positions of signals that nobody in the loop decides, such as set points; in simulated
        episodes they follow the log.
      action_change: [A] most change in a step, infinity where free; or None. Needs past actions in the
        observation.
      violation: (s' [B,S]) -> [B], a TensorFlow function: 0 where all limits of signals are kept, else
        how many are broken, and by which shares of their ranges; or None. The reward pays for it.
    """

    name: str
    observation_names: tuple[str, ...]
    action_names: tuple[str, ...]
    action_low: Array
    action_high: Array
    dt: float
    max_episode_steps: int
    velocity_indices: tuple[int, ...] = ()
    reward: Callable[[Tensor, Tensor, Tensor, str], Tensor] | None = None
    termination: Callable[[Tensor], Tensor] | None = None
    alive_bonus: float = 0.0
    control_cost: float = 0.0
    velocity_limit: float | None = None
    finite_difference: tuple[tuple[int, int], ...] = ()
    reference_returns: tuple[float, float] | None = None
    simulation: SimulationSpec | EnvironmentSpec | None = None
    log: LogSpec | None = None
    becomes: tuple[int, ...] = ()
    given: tuple[int, ...] = ()
    action_change: Array | None = None
    violation: Callable[[Tensor], Tensor] | None = None

    @property
    def action_before_indices(self) -> tuple[int, ...]:
        """A columns of the observation that hold the action before; empty without a past."""
        sources = [self.state_dim + i for i in range(self.action_dim)]
        return tuple(self.becomes.index(i) for i in sources if i in self.becomes)

    @property
    def state_dim(self) -> int:
        """S."""
        return len(self.observation_names)

    @property
    def action_dim(self) -> int:
        """A."""
        return len(self.action_names)

    def clip_actions(self, actions: Array) -> Array:
        """Clips [.., A] actions to the bounds."""
        return np.clip(actions, self.action_low, self.action_high).astype(np.float32)

    def to_unit(self, actions: Array) -> Array:
        """Clips [.., A] actions to the bounds and maps the bounds to -1 and 1."""
        middle = 0.5 * (self.action_high + self.action_low)
        half = 0.5 * (self.action_high - self.action_low)
        return ((self.clip_actions(actions) - middle) / half).astype(np.float32)

    def normalized_score(self, value: float) -> float | None:
        """D4RL's score of a return: 0 is random, 100 is expert; None without references."""
        if self.reference_returns is None:
            return None
        low, high = self.reference_returns
        return 100.0 * (value - low) / (high - low)
