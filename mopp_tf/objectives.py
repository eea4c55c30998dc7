"""Another reward and constraints at run time: control flexibility (MOPP, section 5.3).

A reward is a TensorFlow function (s [B,S], a [B,A], s' [B,S], argument) -> [B] in the task's own units.
A constraint is (s, a, s', argument) -> [B], positive where broken, by how much. Arguments are optional.
Flags name functions (MODULE:FUNCTION); `mopp_tf.with_objective` takes them from Python. `jump` and
`speed_limit` below are the paper's two examples on HalfCheetah.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mopp_tf.control_config import ControlConfig
from mopp_tf.models.rows import RewardScale
from offline_tf.models import compilation
from offline_tf.types import TaskSpec, Tensor, UserError

# HalfCheetah's observation: 0 is the torso's height, 8 its forward velocity.
_HEIGHT, _SPEED = 0, 8

UserFunction = Callable[..., Tensor]
Reward = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # (s [B,S], a [B,A], s' [B,S]) -> [B], task's units


def made_for(task: str) -> Callable[[UserFunction], UserFunction]:
    """Marks a function that reads a task's observations by position: another task is refused it."""

    def mark(function: UserFunction) -> UserFunction:
        function.made_for = task  # type: ignore[attr-defined]
        return function

    return mark


@made_for("halfcheetah")
def jump(states: Tensor, actions: Tensor, next_states: Tensor, fastest: float = 3.0) -> Tensor:
    """min(v_x, fastest) - 0.1 |a|^2 + 15 z: height counts, speed no further than so many m/s.

    Source: the authors' commented-out objective in mopp_agent.py; z is the torso's height over its
    start. To be used with --reward_mode=replace.
    """
    speed = 0.5 * (states[:, _SPEED] + next_states[:, _SPEED])
    effort = tf.reduce_sum(tf.square(actions), axis=1)
    return tf.minimum(speed, fastest) - 0.1 * effort + 15.0 * next_states[:, _HEIGHT]


@made_for("halfcheetah")
def speed_limit(states: Tensor, actions: Tensor, next_states: Tensor, limit: float) -> Tensor:
    """Forward velocity above `limit` m/s after the step.

    Source: the authors' commented-out constraint in mopp_agent.py.
    """
    del states, actions
    return tf.nn.relu(next_states[:, _SPEED] - limit)


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is maximised instead of, or beside, the models' reward, and what must not happen.

    Attributes:
      scale: of the models' reward; others are brought to the same units.
      middle, half: [A], a = middle + half * (action in units of the bounds).
      of_task: the task's own reward, which takes the place of the models'; None for theirs.
      reward: see the module; None for none beside these.
      replaces: whether `reward` takes their place.
      constraint: (s, a, s') -> violation [B]; None for none.
      price: reward taken per unit of violation; None prunes instead.
    """

    scale: RewardScale
    middle: Any = 0.0
    half: Any = 1.0
    of_task: Reward | None = None
    reward: Reward | None = None
    replaces: bool = False
    constraint: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    price: float | None = None

    def own(self, states: Tensor, actions: Tensor, next_states: Tensor, learned: Tensor) -> Tensor:
        """The scaled reward [B] before a user's: the task's, or the models'; see `apply`."""
        if self.of_task is None:
            return learned
        paid = self.of_task(states, self.middle + self.half * actions, next_states)
        return (paid - self.scale.shift) / self.scale.scale

    def apply(
        self, states: Tensor, actions: Tensor, next_states: Tensor, learned: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rewards of one step.

        Args:
          states, next_states: [B, S].
          actions: [B, A] in units of the bounds.
          learned: [B], the models' scaled reward.

        Returns:
          The reward [B], scaled, and what prunes [B].
        """
        reward = self.own(states, actions, next_states, learned)
        broken = tf.zeros_like(learned)
        in_task_units = self.middle + self.half * actions  # [B, A]
        if self.reward is not None:
            user = self.reward(states, in_task_units, next_states) / self.scale.scale
            reward = user if self.replaces else reward + user
        if self.constraint is not None:
            violation = tf.nn.relu(self.constraint(states, in_task_units, next_states))
            if self.price is None:
                broken = violation
            else:
                reward -= self.price / self.scale.scale * violation
        return reward, broken


def reward_of(task: TaskSpec, physics: str) -> Reward | None:
    """The reward that a task declares, or that was learned apart; None where there is neither."""
    reward = task.reward
    if reward is None:
        return None

    def paid(states: Tensor, actions: Tensor, next_states: Tensor) -> Tensor:
        return compilation.of_task(reward)(states, actions, next_states, physics)

    return paid


def of_task(task: TaskSpec, scale: RewardScale, reward: Reward | None = None) -> Objective:
    """The models' reward, and the limits of the task's signals as a hard constraint.

    Args:
      task: bounds and limits.
      scale: of the models' reward.
      reward: of the task, where it takes the place of the models'.
    """
    limits = None
    if (violation := task.violation) is not None:

        def limits(states: Tensor, actions: Tensor, next_states: Tensor) -> Tensor:
            del states, actions
            return violation(next_states)

    middle = 0.5 * (task.action_high + task.action_low)
    half = 0.5 * (task.action_high - task.action_low)
    return Objective(scale, middle, half, reward, constraint=limits)


def load_function(flag: str, name: str) -> UserFunction:
    """Imports MODULE:FUNCTION; the current folder counts.

    Raises:
      UserError: there is no such module or function.
    """
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # a user's module may raise anything
        raise UserError(
            f"--{flag}: expected MODULE:FUNCTION that can be imported, got {name!r} "
            f"({type(error).__name__}: {error})"
        ) from error
    if not callable(function):
        raise UserError(f"--{flag}: expected a function, but {name} is {type(function).__name__}")
    return function


def make(
    task: TaskSpec,
    scale: RewardScale,
    config: ControlConfig,
    reward: UserFunction | None = None,
    constraint: UserFunction | None = None,
    own: Reward | None = None,
) -> Objective:
    """Builds the objective from flags, or from functions; a constraint takes the task's limits' place.

    Args:
      task: dimensions and bounds.
      scale: of the learned reward.
      config: the flags.
      reward, constraint: used instead of those that the flags name.
      own: see `of_task`.

    Raises:
      UserError: a function does not exist, is made for another task or does not work inside a graph;
        or flags that say how to use one, and none is given.
    """
    if config.reward:
        reward = reward or load_function("reward", config.reward)
    if config.constraint:
        constraint = constraint or load_function("constraint", config.constraint)
    unset = ControlConfig()
    for flag, function, needing in (
        ("reward", reward, ("reward_mode", "reward_arg")),
        ("constraint", constraint, ("constraint_mode", "constraint_weight", "constraint_arg")),
    ):
        for name in needing if function is None else ():
            if getattr(config, name) != getattr(unset, name):
                raise UserError(f"--{name}: expected --{flag} with it, got none")
    if reward is not None:
        reward = _checked("reward", reward, config.reward_arg, task)
    if constraint is not None:
        constraint = _checked("constraint", constraint, config.constraint_arg, task)
    plain = of_task(task, scale, own)
    return dataclasses.replace(
        plain,
        reward=reward,
        replaces=config.reward_mode == "replace",
        constraint=constraint or plain.constraint,
        price=config.constraint_weight if config.constraint_mode == "soft" else None,
    )


def _checked(
    flag: str, function: UserFunction, argument: float | None, task: TaskSpec
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The user's function with its last argument, tried out once as planning will call it."""
    wanted = getattr(function, "made_for", task.name)
    if wanted != task.name:
        raise UserError(
            f"--{flag}: this function reads {wanted}'s observations by position, and the run is on "
            f"{task.name}; write one that reads {task.name}'s"
        )
    extra = () if argument is None else (argument,)

    @tf.function  # with AutoGraph: the user's Python may branch and loop over tensors
    def call(states: Tensor, actions: Tensor, next_states: Tensor) -> Tensor:
        return tf.cast(function(states, actions, next_states, *extra), tf.float32)

    states = tf.constant(np.zeros((2, task.state_dim), np.float32))
    actions = tf.constant(np.zeros((2, task.action_dim), np.float32))
    try:
        shape = tuple(call(states, actions, states).shape)
    except Exception as error:  # a user's function may raise anything; its message is passed on
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # AutoGraph puts its own lines around the message.
        text = next((x.strip() for x in reversed(lines) if x.strip()), "")
        raise UserError(
            f"--{flag}: the function failed on a trial call inside tf.function: {text}"
        ) from error
    if shape != (2,):
        raise UserError(
            f"--{flag}: expected one number per row, shape (2,) for two rows, got {shape}"
        )
    return call
