from __future__ import annotations

import numpy as np
import pytest

from offline_tf.numerics import rank_statistics


def _naive_ranks(values):
    return np.array([np.mean([v < x for v in values]) for x in values]) * len(values) + np.array(
        [0.5 * (sum(v == x for v in values) - 1) for x in values]
    )


def test_ranks_share_ties():
    np.testing.assert_array_equal(rank_statistics.ranks(np.array([30.0, 10.0, 20.0])), [2, 0, 1])
    np.testing.assert_array_equal(
        rank_statistics.ranks(np.array([5.0, 5.0, 1.0, 5.0])), [2, 2, 0, 2]
    )
    values = np.random.default_rng(0).integers(0, 6, 40).astype(float)
    np.testing.assert_allclose(rank_statistics.ranks(values), _naive_ranks(values))


def test_rank_correlation_by_hand():
    x = np.arange(5.0)
    assert rank_statistics.rank_correlation(x, np.exp(x)) == pytest.approx(1.0)
    assert rank_statistics.rank_correlation(x, -(x**3)) == pytest.approx(-1.0)
    # Without ties 1 - 6 sum d^2 / (n (n^2 - 1)); d = (1, -1, 1, -1, 0).
    swapped = np.array([1.0, 0.0, 3.0, 2.0, 4.0])
    assert rank_statistics.rank_correlation(x, swapped) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert rank_statistics.rank_correlation(x, np.ones(5)) == 0.0
    first, second = np.random.default_rng(0).integers(0, 9, (2, 60)).astype(float)
    expected = np.corrcoef(_naive_ranks(first), _naive_ranks(second))[0, 1]
    assert rank_statistics.rank_correlation(first, second) == pytest.approx(expected)


def test_auroc_counts_pairs():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 8, 70).astype(float)
    positive = rng.uniform(size=70) < 0.3
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[positive] for n in scores[~positive]]
    assert rank_statistics.auroc(scores, positive) == pytest.approx(np.mean(pairs))
    assert rank_statistics.auroc(positive.astype(float), positive) == 1.0
    assert rank_statistics.auroc(-positive.astype(float), positive) == 0.0
    assert rank_statistics.auroc(np.ones(70), positive) == 0.5
    assert rank_statistics.auroc(scores, np.zeros(70, bool)) == 0.5
    uninformed = rng.normal(size=4000)
    # Standard error 1 / sqrt(12 * 2000): 0.6 %.
    assert rank_statistics.auroc(uninformed, np.arange(4000) < 2000) == pytest.approx(0.5, abs=0.03)
