"""Resampling against fine sums over the held signal."""

import numpy as np
import pytest

from offline_tf.numerics import resampling

TIMES = np.array([0.0, 1.0, 1.5, 4.0, 9.0])
VALUES = np.array([2.0, 4.0, -1.0, 3.0, 5.0])


def held(moment):
    """The newest value, by a loop."""
    newest = np.nan
    for time, value in zip(TIMES, VALUES, strict=True):
        if time <= moment:
            newest = value
    return newest


def test_the_last_value_holds():
    grid = np.array([-0.1, 0.0, 0.99, 1.0, 3.9, 4.0, 100.0])
    np.testing.assert_array_equal(
        resampling.last(TIMES, VALUES, grid), [held(moment) for moment in grid]
    )


@pytest.mark.parametrize(("begin", "end"), [(0.0, 1.0), (0.25, 3.0), (1.0, 20.0), (3.0, 3.5)])
def test_means_weigh_values_by_their_time(begin, end):
    moments = np.linspace(begin, end, 200_001)[:-1]
    expected = np.mean([held(moment) for moment in moments[::40]])
    found = resampling.mean(TIMES, VALUES, np.array([begin]), np.array([end]))
    np.testing.assert_allclose(found, [expected], rtol=2e-3)


def test_by_hand():
    # 2 for one second, 4 for half a second, -1 for half a second.
    found = resampling.mean(TIMES, VALUES, np.array([0.0, -1.0]), np.array([2.0, 1.0]))
    np.testing.assert_allclose(found, [(2 + 2 - 0.5) / 2, np.nan])
    np.testing.assert_allclose(resampling.linear(TIMES, VALUES, np.array([0.5, 6.5])), [3.0, 4.0])
    assert np.isnan(resampling.linear(TIMES, VALUES, np.array([-1.0, 10.0]))).all()
    np.testing.assert_array_equal(
        resampling.age(TIMES, np.array([-1.0, 0.0, 3.0, 11.0])), [np.inf, 0.0, 1.5, 2.0]
    )


def test_a_single_sample_holds_for_ever():
    one = np.array([3.0]), np.array([7.0])
    np.testing.assert_array_equal(
        resampling.mean(*one, np.array([2.0, 3.0, 9.0]), np.array([3.0, 4.0, 12.0])), [np.nan, 7, 7]
    )
