"""The weighted average of candidate trajectories (MOPP, section 4.4; MPPI)."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from offline_tf.types import Tensor

_LEAST_SPREAD = 1e-6


class Average(NamedTuple):
    """The plan [E, H, A], the weights [E, N] and their effective sample size [E]."""

    plan: Tensor
    weights: Tensor
    effective_sample_size: Tensor


def spread(returns: Tensor, keep: Tensor) -> Tensor:
    """Standard deviation [E] of the kept among returns [E, N]."""
    count = tf.maximum(tf.reduce_sum(tf.cast(keep, tf.float32), axis=1), 1.0)  # [E]
    kept_returns = tf.where(keep, returns, 0.0)  # [E, N]
    mean = tf.reduce_sum(kept_returns, axis=1) / count  # [E]
    squares = tf.where(keep, tf.square(returns - mean[:, None]), 0.0)  # [E, N]
    return tf.sqrt(tf.reduce_sum(squares, axis=1) / count)


def weighted_average(
    actions: Tensor, returns: Tensor, keep: Tensor, inverse_temperature: float, relative: bool
) -> Average:
    """plan[t] = sum_n w_n a_n[t],  w = softmax over the kept of kappa * R_n.

    Source: MOPP, section 4.4; the authors' _mopp_sol.
    Differs: `relative` divides the returns by their standard deviation among the kept, so that one
    kappa serves data sets with different spreads.

    Args:
      actions: [E, N, H, A].
      returns: [E, N].
      keep: [E, N] bool, at least one per row.
      inverse_temperature: kappa, at least 0; may be infinite (the best candidate).
      relative: whether kappa acts on returns in units of their spread.

    Returns:
      An Average.
    """
    tf.debugging.assert_shapes(
        [(actions, ("E", "N", "H", "A")), (returns, ("E", "N")), (keep, ("E", "N"))]
    )
    kept_returns = tf.where(keep, returns, returns.dtype.min)
    best = tf.reduce_max(kept_returns, axis=1, keepdims=True)  # [E, 1]
    shortfall = tf.where(keep, best - returns, 0.0)  # [E, N], at least 0
    if relative:
        shortfall = shortfall / tf.maximum(spread(returns, keep), _LEAST_SPREAD)[:, None]
    # 0 where the shortfall is 0, even if kappa is infinite.
    exponent = tf.where(shortfall > 0.0, inverse_temperature * shortfall, 0.0)  # [E, N]
    weights = tf.where(keep, tf.exp(-exponent), 0.0)
    weights = weights / tf.reduce_sum(weights, axis=1, keepdims=True)  # [E, N]
    # A pruned candidate may hold NaN, which a weight of 0 would not remove.
    kept_actions = tf.where(keep[:, :, None, None], actions, 0.0)  # [E, N, H, A]
    plan = tf.einsum("en,enha->eha", weights, kept_actions)
    return Average(plan, weights, 1.0 / tf.reduce_sum(tf.square(weights), axis=1))


def entropy(weights: Tensor) -> Tensor:
    """-sum_n w_n ln w_n in nats, [E, N] -> [E]; a weight of 0 adds nothing."""
    return -tf.reduce_sum(tf.math.multiply_no_nan(tf.math.log(weights), weights), axis=1)
