"""Discounted sums and generalised advantages over fixed-size blocks of paths.

Arrays are [T, K]: step t of path k. `ended[t, k]` says that the path was cut after step t, so that
nothing flows back across it; rows after the last end of a path are whatever the caller masks away.
"""

from __future__ import annotations

import numpy as np

from offline_tf.types import Array


def discounted_returns(rewards: Array, ended: Array, discount: float) -> Array:
    """Discounted sum of rewards to the end of the path, nothing beyond it.

    G_t = r_t + discount * G_{t+1}, with G = 0 after an end.

    Args:
      rewards: [T, K].
      ended: [T, K] bool, the path is cut after this step.
      discount: in [0, 1].

    Returns:
      [T, K] float64.
    """
    total = np.zeros(rewards.shape[1])
    returns = np.empty(rewards.shape)
    for t in range(len(rewards) - 1, -1, -1):
        total = rewards[t] + discount * np.where(ended[t], 0.0, total)
        returns[t] = total
    return returns


def generalized_advantages(
    rewards: Array,
    *,
    values: Array,
    next_values: Array,
    terminated: Array,
    ended: Array,
    discount: float,
    gae_lambda: float,
) -> Array:
    """Generalised advantage estimate.

    delta_t = r_t + discount * V(s_{t+1}) * (not terminated_t) - V(s_t)
    A_t = delta_t + discount * lambda * A_{t+1}, with A = 0 after an end.

    A time limit (ended, not terminated) bootstraps with the value of the state after the last step;
    termination and HALT do not. Source: Schulman et al. 2015, eq. 16.

    Args:
      rewards, values, next_values: [T, K]; next_values[t] is V of the state after step t.
      terminated: [T, K] bool.
      ended: [T, K] bool; must be true wherever terminated is.
      discount: in [0, 1].
      gae_lambda: in [0, 1].

    Returns:
      [T, K] float64.
    """
    bootstrap = np.where(terminated, 0.0, next_values)
    residuals = rewards + discount * bootstrap - values
    return discounted_returns(residuals, ended | terminated, discount * gae_lambda)


def with_interval(name: str, values: Array) -> dict[str, float]:
    """The mean of independent returns [n], and its 95 % interval, 1.96 standard errors each way.

    Returns:
      NAME, NAME_low, NAME_high; all three the same for a single return.
    """
    mean = float(values.mean())
    half = 1.96 * float(values.std(ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
