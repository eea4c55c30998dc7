import numpy as np
import pytest

from offline_tf.numerics import seed_statistics as statistics


def test_the_interquartile_mean_cuts_a_quarter_on_each_side():
    scores = [np.array([100.0, 1.0, 3.0, 2.0]), np.array([-50.0, 4.0, 6.0, 5.0])]
    # -50, 1 and 6, 100 are cut.
    assert statistics.interquartile_mean(scores) == 3.5
    # A quarter of three is less than one.
    assert statistics.interquartile_mean([np.array([1.0, 2.0, 6.0])]) == 3.0


def test_an_interval_resamples_within_tasks():
    # Between the tasks lies everything, within them nothing: no interval.
    found = statistics.interval([np.zeros(3), np.full(3, 9.0)], statistics.interquartile_mean)
    assert found == (4.5, 4.5, 4.5)
    noisy = np.random.default_rng(0).normal(0.0, 1.0, 400)
    found = statistics.interval([noisy], lambda scores: float(np.mean(scores[0])))
    half = 1.96 * noisy.std() / 20.0
    np.testing.assert_allclose([found.low, found.high], noisy.mean() + [-half, half], atol=0.02)
    few = statistics.interval([np.zeros(2)], statistics.interquartile_mean)
    assert few.value == 0.0 and np.isnan(few.low) and np.isnan(few.high)


def test_the_probability_of_improvement_counts_pairs():
    ours, theirs = [np.array([1.0, 3.0])], [np.array([2.0, 3.0])]
    # 1 loses twice, 3 beats 2 and ties with 3.
    assert statistics.improvement(ours, theirs) == pytest.approx(1.5 / 4)
    assert statistics.improvement(theirs, ours) == pytest.approx(2.5 / 4)
    both = [np.full(3, 2.0), np.zeros(3)], [np.ones(3), np.ones(3)]
    assert statistics.improvement_interval(*both) == (0.5, 0.5, 0.5)


def test_a_profile_says_how_many_runs_lie_above_a_level():
    scores = [np.array([0.0, 1.0]), np.array([2.0, 2.0, 2.0])]
    np.testing.assert_allclose(
        statistics.profile(scores, np.array([-1.0, 0.0, 1.5])), [1, 0.75, 0.5]
    )
