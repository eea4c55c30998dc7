"""Logged rewards against the task's own: shifted, of another kind, scaled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from offline_tf.datasets.quality.findings import Finding
from offline_tf.types import Array, TaskSpec, Transitions

_AGREES = 0.9  # correlation of logged rewards with the task's own; HalfCheetah's proxy has 0.97
_SCALE = 1.33  # HalfCheetah's proxy: 1.17
_ROWS_JUDGED = 50_000


def rewards(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Rewards against the task's own reward function, which for robots is a proxy: see `tasks`."""
    if task.reward is None or not np.ptp(data.rewards):
        return
    rows = np.arange(len(data))[:: max(1, len(data) // _ROWS_JUDGED)]
    rows = rows[data.next_known[rows]]
    task_rewards = own_rewards(data, task, rows)
    logged = data.rewards.astype(np.float64)
    if not np.ptp(task_rewards):
        return

    def agreement(offset: int) -> float:
        shifted_rows = np.clip(rows + offset, 0, len(data) - 1)
        lagged = logged[shifted_rows]
        return float(np.corrcoef(lagged, task_rewards)[0, 1]) if np.ptp(lagged) else 0.0

    unshifted = agreement(0)
    for offset, name in ((-1, "earlier"), (1, "later")):
        shifted = agreement(offset)
        if shifted > _AGREES and 1.0 - shifted < 0.5 * (1.0 - unshifted):
            yield Finding(
                "rewards_shifted",
                "error",
                f"rewards stand one row {name} than --env={task.name} pays them",
                "every action would be paid for what another one did",
                "shift the column by one row within episodes",
            )
            return
    if unshifted < _AGREES:
        yield Finding(
            "rewards_differ",
            "warning",
            f"rewards go with --env={task.name}'s own with a correlation of {unshifted:.2f} only",
            "the data were recorded with another reward, or observations are in another order or "
            "unit",
            "if the reward is another one on purpose, use a learned reward",
        )
        return
    slope = _width(logged[rows]) / max(_width(task_rewards), 1e-12)
    bias = float(np.median(logged[rows] - task_rewards))
    if not 1 / _SCALE < slope < _SCALE or abs(bias) > 0.5 * task_rewards.std():
        shift = float(np.median(logged[rows]) - slope * np.median(task_rewards))
        yield Finding(
            "rewards_scaled",
            "warning",
            f"rewards are {slope:.3g} times --env={task.name}'s plus {shift:.3g}",
            "returns and scores are not comparable with others'; a shift changes what an early end "
            "is worth",
            "undo it, unless it is wanted",
        )


def own_rewards(data: Transitions, task: TaskSpec, rows: Array) -> Array:
    """[n] float64, what the task's reward function says of these rows."""
    assert task.reward is not None
    columns = (data.observations, data.actions, data.next_observations)
    states, actions, following = (tf.constant(values[rows]) for values in columns)
    return np.asarray(task.reward(states, actions, following, "v2"), np.float64)


def _width(values: Array) -> float:
    """Between the 10th and the 90th percentile."""
    low, high = np.quantile(values, (0.1, 0.9))
    return float(high - low)
