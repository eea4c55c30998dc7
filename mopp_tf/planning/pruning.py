"""Which candidate trajectories stay (MOPP, section 4.3)."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from offline_tf.types import Tensor

# Candidates are ordered by class, and within one by what makes them worse.
_CERTAIN, _UNCERTAIN, _FORBIDDEN, _BROKEN = range(4)


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
    Neither takes a candidate that breaks a hard constraint while one obeys it, so fewer than N_m may
    stay; where all break it, those that break it least are taken. Candidates that are not finite
    stay only where there are no others.

    Source: MOPP, section 4.3; the authors' _mopp_sol. Differs: the authors take those below the
    20th percentile of 100, which are these N_m = 20 where no two are equal; their constraint is a
    disagreement above L, so that it is readmitted like any other.

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
    allowed = violation <= 0.0  # a violation that is not a number counts as one
    certain = tf.reduce_all(uncertainty <= limit, axis=2) & finite & allowed
    fallback = tf.math.count_nonzero(certain, axis=1) < least
    best = tf.where(certain, _CERTAIN, _UNCERTAIN) if rule == "fill" else _UNCERTAIN
    group = tf.where(finite, tf.where(allowed, best, _FORBIDDEN), _BROKEN)
    badness = tf.where(allowed, total, violation)
    badness = tf.where(tf.math.is_finite(badness), badness, badness.dtype.max)
    by_badness = tf.argsort(badness, axis=1, stable=True)
    groups = tf.gather(group, by_badness, batch_dims=1)
    order = tf.gather(by_badness, tf.argsort(groups, axis=1, stable=True), batch_dims=1)
    population = tf.shape(total)[1]
    filled = tf.one_hot(order[:, :least], population, on_value=True, off_value=False)
    worst = tf.maximum(tf.reduce_min(group, axis=1, keepdims=True), _UNCERTAIN)
    filled = tf.reduce_any(filled, axis=1) & (group <= worst)
    return Pruned(tf.where(fallback[:, None], filled, certain), fallback)
