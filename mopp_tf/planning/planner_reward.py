"""Whose reward a candidate's steps are paid: the dynamics models', or the task's own.

In the paper the dynamics models predict the reward beside the next state. Where it has a narrow peak,
as -log(distance) has, their Gaussian head misses most of it, and a planner is no better than what it
is paid by. A task that declares its reward, or a network that was fitted to nothing else, knows more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from mopp_tf.models.dynamics import DynamicsModel
from mopp_tf.models.rows import RewardScale, Rows
from mopp_tf.objectives import Reward, of_task
from offline_tf.models import compilation
from offline_tf.numerics import large_columns
from offline_tf.tasks import closed_form
from offline_tf.types import TaskSpec, Tensor

MODELS, TASK = "models", "task"
_MISSED = 0.01  # of the variance; on Hopper and Walker2d the models miss 0.2 to 0.3 %
_ROWS_PER_CALL = 4096


def errors(
    dynamics: DynamicsModel, *, task: TaskSpec, rows: Rows, scale: RewardScale, reward: Reward
) -> tuple[float, float]:
    """Shares of the rewards' variance that are missed, both from s and a alone.

    Args:
      dynamics: fitted; its members' rewards are averaged, as planning does.
      task: bounds, and what it tells of the next state.
      rows: n held-out ones.
      scale: of their rewards.
      reward: the task's own, paid at the next state of one member at a time, as planning does.

    Returns:
      Of the models' reward, and of the task's.
    """
    own = of_task(task, scale, reward)
    predict = dynamics.bind()

    @compilation.ForAnyLength
    def block(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        outputs = predict(states, actions)  # [K, B, S + 1]
        learned = tf.reduce_mean(dynamics.rewards(outputs), axis=0)  # [B]
        paid = []
        for next_states in tf.unstack(dynamics.next_states(states, outputs)):
            reached = closed_form.with_the_past_in_units(task, states, actions, next_states)
            paid.append(own.own(states, actions, reached, learned))
        return learned, tf.stack(paid)

    missed = np.zeros(2)
    for cut in large_columns.blocks(len(rows.states), _ROWS_PER_CALL):
        found = block(tf.constant(rows.states[cut]), tf.constant(rows.actions[cut]))
        for index, predicted in enumerate(found):  # [B], [K, B]
            errors_squared = np.square(predicted.numpy().astype(np.float64) - rows.rewards[cut])
            missed[index] += errors_squared.mean(axis=0).sum() if index else errors_squared.sum()
    variance = max(float(rows.rewards.astype(np.float64).var()), 1e-12)
    of_models, of_own = missed / len(rows.rewards) / variance
    return float(of_models), float(of_own)


def choose(
    dynamics: DynamicsModel,
    *,
    task: TaskSpec,
    rows: Rows,
    scale: RewardScale,
    reward: Reward | None,
) -> dict[str, Any]:
    """The rule of --planner_reward=auto.

    Args: see `errors`; without a `reward` of the task, or without rows, there is no choice.

    Returns:
      "chosen", and "models_missed" and "task_missed" where there was a choice.
    """
    if reward is None or not len(rows.rewards):
        return {"chosen": MODELS}
    of_models, of_own = errors(dynamics, task=task, rows=rows, scale=scale, reward=reward)
    chosen = TASK if of_models > _MISSED and of_own < of_models else MODELS
    logging.info(
        "planner_reward: %s; the models miss %.2g %% of the rewards' variance, the task's %.2g %%",
        chosen,
        100 * of_models,
        100 * of_own,
    )
    return {"chosen": chosen, "models_missed": of_models, "task_missed": of_own}
