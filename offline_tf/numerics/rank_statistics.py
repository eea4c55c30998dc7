"""Ranks and what is made of them."""

from __future__ import annotations

import numpy as np

from offline_tf.types import Array


def ranks(values: Array) -> Array:
    """Average ranks, ties shared; [N] -> [N] float64 from 0."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - 0.5 * (counts + 1))[inverse]


def rank_correlation(first: Array, second: Array) -> float:
    """Spearman's rank correlation of two [N] arrays; 0 where one is constant."""
    a, b = ranks(first), ranks(second)
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def auroc(scores: Array, positive: Array) -> float:
    """Area under the ROC curve: chance that a positive scores above a negative; [N], [N] bool."""
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return 0.5
    rank_sum = ranks(scores)[positive].sum()
    return float((rank_sum - n_positive * (n_positive - 1) / 2) / (n_positive * n_negative))
