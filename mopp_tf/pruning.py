"""Which candidate trajectories stay (MOPP, section 4.3)."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from offline_tf.types import Tensor

_BROKEN = 1e30  # orders a candidate behind all finite ones


class Pruned(NamedTuple):
    """Which candidates stay, [E, N] bool; whether the fallback chose them, [E] bool."""

    keep: Tensor
    fallback: Tensor


def prune(
    uncertainty: Tensor, violation: Tensor, limit: Tensor | float, least: int, rule: str
) -> Pruned:
    """Keeps the candidates whose every step is certain and allowed.

    Fewer than N_m survivors: "fill" adds the least uncertain others until there are N_m (the
    paper); "replace" takes the N_m least uncertain of all, whoever survived (the authors' code).
    Candidates that break a hard constraint, or are not finite, come last in that order.

    Source: MOPP, section 4.3; the authors' _mopp_sol. Differs: the authors take those below the
    20th percentile of 100, which are these N_m = 20 where no two are equal.

    Args:
      uncertainty: [E, N, H], the ensemble's disagreement at each step.
      violation: [E, N], at least 0; positive where a hard constraint is broken.
      limit: L; infinite keeps all that is allowed.
      least: N_m, 1..N.
      rule: "fill" or "replace".

    Returns:
      A Pruned.
    """
    tf.debugging.assert_shapes([(uncertainty, ("E", "N", "H")), (violation, ("E", "N"))])
    total = tf.reduce_sum(uncertainty, axis=2)
    finite = tf.math.is_finite(total)
    certain = tf.reduce_all(uncertainty <= limit, axis=2) & finite & (violation <= 0.0)
    rank = tf.where(finite, total, _BROKEN)
    rank = tf.where((violation > 0.0) & finite, tf.maximum(rank, 0.0) + 1e9 * violation, rank)
    if rule == "fill":
        rank = tf.where(certain, -1.0, rank)
    _, chosen = tf.math.top_k(-rank, k=least)
    population = tf.shape(total)[1]
    filled = tf.reduce_any(tf.one_hot(chosen, population, on_value=True, off_value=False), axis=1)
    fallback = tf.math.count_nonzero(certain, axis=1) < least
    return Pruned(tf.where(fallback[:, None], filled, certain), fallback)
