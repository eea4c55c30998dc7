"""Disagreement of an ensemble, and the threshold above which a pair is unknown."""

from __future__ import annotations

import itertools

import numpy as np
import tensorflow as tf

from offline_tf.types import Array, Tensor


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


def episode_maxima(values: Array, rows: Array, bounds: Array) -> Array:
    """The largest value within each episode.

    Args:
      values: [n], of these rows.
      rows: [n] ascending row numbers.
      bounds: [E, 2] first and one past the last row of each episode.

    Returns:
      One number per episode that has a row.
    """
    episode = np.searchsorted(bounds[:, 0], rows, side="right") - 1  # [n]
    first = np.flatnonzero(np.diff(episode, prepend=-1))
    return np.maximum.reduceat(values, first)


def threshold_that_cuts(maxima: Array, share: float, margin: float = 1.0) -> float:
    """The smallest of the maxima that at most a share of the episodes go above, times a margin.

    Whole episodes are the unit, not steps: a threshold that one step in a thousand goes above ends
    every second episode of 700 steps. The margin is for episodes to come: the largest of a few maxima
    is soon exceeded, and a path that leaves the data goes far beyond it.

    Args:
      maxima: of the episodes, see `episode_maxima`.
      share: in [0, 1].
      margin: factor, at least 0.
    """
    cut = min(int(share * len(maxima) + 1e-9), len(maxima) - 1)
    return margin * float(np.sort(maxima)[len(maxima) - 1 - cut])
