"""Disagreement of an ensemble: the largest pairwise distance of its predictions."""

from __future__ import annotations

import itertools

import tensorflow as tf

from offline_tf.types import Tensor


def largest_pairwise_distance(predictions: Tensor) -> Tensor:
    """max_{i,j} || p_i - p_j ||_2.

    Source: MOReL, section 4 (USAD); MOPP, section 4.3.

    Args:
      predictions: [M, B, D], one prediction per member; M is static.

    Returns:
      [B], at least 0; 0 for one member.
    """
    tf.debugging.assert_rank(predictions, 3)
    members = predictions.shape[0]
    pairs = list(itertools.combinations(range(members), 2))
    if not pairs:  # 0, but NaN stays NaN
        return tf.reduce_sum(predictions[0] - predictions[0], axis=-1)
    first = tf.gather(predictions, [i for i, _ in pairs])
    second = tf.gather(predictions, [j for _, j in pairs])
    squared = tf.reduce_sum(tf.square(first - second), axis=-1)
    return tf.sqrt(tf.reduce_max(squared, axis=0))
