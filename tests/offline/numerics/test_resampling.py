"""Resampling against fine sums over the held signal."""

import itertools

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


@pytest.mark.parametrize("edges", [[0.0, 1.0], [0.25, 3.0, 3.5, 20.0], [3.0, 3.5]])
def test_means_of_what_is_held_weigh_values_by_their_time(edges):
    expected = []
    for begin, end in itertools.pairwise(edges):
        moments = np.linspace(begin, end, 20_001)[:-1]
        expected.append(np.mean([held(moment) for moment in moments]))
    found = resampling.held_mean(TIMES, VALUES, np.array(edges))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_by_hand():
    # 2 for one second, 4 for half a second, -1 for half a second.
    found = resampling.held_mean(TIMES, VALUES, np.array([-1.0, 0.0, 2.0]))
    np.testing.assert_allclose(found, [np.nan, (2 + 2 - 0.5) / 2])
    begins, ends = np.array([0.0, 1.0, 1.5, 4.0, -9.0]), np.array([1.0, 1.5, 3.9, 9.0, -8.0])
    found = resampling.sample_mean(TIMES, VALUES, begins, ends)
    np.testing.assert_allclose(found, [4.0, -1.0, -1.0, 5.0, np.nan])
    np.testing.assert_allclose(
        resampling.sample_mean(TIMES, VALUES, np.array([-1.0]), np.array([1.2])), [3.0]
    )
    np.testing.assert_allclose(resampling.linear(TIMES, VALUES, np.array([0.5, 6.5])), [3.0, 4.0])
    assert np.isnan(resampling.linear(TIMES, VALUES, np.array([-1.0, 10.0]))).all()
    np.testing.assert_array_equal(
        resampling.age(TIMES, np.array([-1.0, 0.0, 3.0, 11.0])), [np.inf, 0.0, 1.5, 2.0]
    )


@pytest.mark.parametrize("absurd", [1e30, 1.7e308])
def test_one_absurd_value_spoils_no_other(absurd):
    times, values = np.arange(10.0), np.ones(10)
    values[2] = absurd
    edges = np.arange(10.0)
    np.testing.assert_array_equal(resampling.held_mean(times, values, edges)[3:], np.ones(6))
    np.testing.assert_array_equal(
        resampling.sample_mean(times, values, edges[:-1], edges[1:])[2:], np.ones(7)
    )


def test_a_single_sample_holds_for_ever():
    one = np.array([3.0]), np.array([7.0])
    np.testing.assert_array_equal(
        resampling.held_mean(*one, np.array([2.0, 3.0, 9.0, 12.0])), [np.nan, 7, 7]
    )
