"""Which candidate trajectories stay (MOPP, section 4.3)."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from offline_tf.types import Tensor

# Candidates are ordered by rank, and within one by badness: disagreement, or violation.
_CERTAIN, _UNCERTAIN, _FORBIDDEN, _BROKEN = range(4)


class Pruned(NamedTuple):
    """Which candidates stay, [E, N] bool; whether the fallback chose them, [E] bool."""

    keep: Tensor
    fallback: Tensor


def prune(
    disagreement: Tensor, violation: Tensor, limit: Tensor | float, least: int, rule: str
) -> Pruned:
    """Keeps the candidates whose every step is certain and allowed.

    Fewer than N_m survivors: "fill" adds the least uncertain others until there are N_m (the
    paper); "replace" takes the N_m least uncertain of all, whoever survived (the authors' code).
    Neither takes a candidate that breaks a hard constraint while one obeys it, so fewer than N_m may
    stay; where all break it, those that break it least are taken. Candidates that are not finite
    stay only where there are no others.

    Source: MOPP, section 4.3; the authors' _mopp_sol. Differs: the authors take those below the
    20th percentile of 100, which are these N_m = 20 where no two are equal; their constraint is a
    disagreement above L, so that it is readmitted like any other.

    Args:
      disagreement: [E, N, H], of the ensemble at each step.
      violation: [E, N], at least 0; positive where a hard constraint is broken.
      limit: L; infinite keeps all that is allowed.
      least: N_m, 1..N.
      rule: "fill" or "replace".

    Returns:
      A Pruned.
    """
    tf.debugging.assert_shapes([(disagreement, ("E", "N", "H")), (violation, ("E", "N"))])
    total = tf.reduce_sum(disagreement, axis=2)  # [E, N]
    finite = tf.math.is_finite(total)  # [E, N]
    allowed = violation <= 0.0  # [E, N]; a violation that is not a number counts as one
    certain = tf.reduce_all(disagreement <= limit, axis=2) & finite & allowed  # [E, N]
    fallback = tf.math.count_nonzero(certain, axis=1) < least  # [E]

    # The fallback: the least bad of the lowest rank first.
    lowest = tf.where(certain, _CERTAIN, _UNCERTAIN) if rule == "fill" else _UNCERTAIN
    rank = tf.where(finite, tf.where(allowed, lowest, _FORBIDDEN), _BROKEN)  # [E, N]
    badness = tf.where(allowed, total, violation)  # [E, N]
    badness = tf.where(tf.math.is_finite(badness), badness, badness.dtype.max)
    by_badness = tf.argsort(badness, axis=1, stable=True)  # [E, N]
    ranks = tf.gather(rank, by_badness, batch_dims=1)
    order = tf.gather(by_badness, tf.argsort(ranks, axis=1, stable=True), batch_dims=1)  # [E, N]
    population = tf.shape(total)[1]
    chosen = tf.one_hot(order[:, :least], population, on_value=True, off_value=False)  # [E, N_m, N]
    worst_rank = tf.maximum(tf.reduce_min(rank, axis=1, keepdims=True), _UNCERTAIN)  # [E, 1]
    chosen = tf.reduce_any(chosen, axis=1) & (rank <= worst_rank)  # [E, N]
    return Pruned(tf.where(fallback[:, None], chosen, certain), fallback)
