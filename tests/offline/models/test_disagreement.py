from __future__ import annotations

import numpy as np
import pytest

from offline_tf.models.disagreement import episode_maxima, threshold_that_cuts

BOUNDS = np.array([[0, 3], [3, 5], [5, 9]])


def test_the_largest_value_of_each_episode():
    values = np.array([1, 5, 2, 7, 3, 0, 4, 9, 8], np.float32)
    np.testing.assert_array_equal(episode_maxima(values, np.arange(9), BOUNDS), [5, 7, 9])


def test_episodes_without_rows_are_left_out():
    rows = np.array([0, 2, 6, 8])
    np.testing.assert_array_equal(
        episode_maxima(np.array([1.0, 5.0, 2.0, 7.0]), rows, BOUNDS), [5, 7]
    )


@pytest.mark.parametrize(("share", "cut"), [(0.0, 0), (0.1, 1), (0.15, 1), (0.25, 2), (1.0, 9)])
def test_at_most_the_share_of_the_episodes_is_cut(share, cut):
    maxima = np.random.default_rng(0).permutation(np.arange(10.0))
    threshold = threshold_that_cuts(maxima, share)
    assert (maxima > threshold).sum() == cut
