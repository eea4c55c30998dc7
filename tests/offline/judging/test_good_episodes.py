from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import toys

from offline_tf.judging import good_episodes
from offline_tf.numerics.holdout import Split, split_episodes


def with_rewards(data, by_episode):
    rewards = np.zeros(len(data), np.float32)
    for (start, end), value in zip(data.episode_bounds(), by_episode, strict=True):
        rewards[start:end] = value / (end - start)
    return dataclasses.replace(data, rewards=rewards)


def test_where_starts_decide_nothing_returns_do():
    rng = np.random.default_rng(0)
    data = with_rewards(toys.transitions((10,) * 60), rng.normal(size=60))
    order = np.argsort(good_episodes.scores(data))
    returns = data.episode_returns()
    assert np.corrcoef(np.argsort(order), np.argsort(np.argsort(returns)))[0, 1] > 0.95


def test_an_episode_is_compared_with_what_its_start_lets_expect():
    """Returns are 100 x of the start plus a little skill: skill decides, not luck."""
    data = toys.transitions((10,) * 60)
    skill = np.random.default_rng(0).normal(size=60)
    first = data.observations[data.episode_bounds()[:, 0], 0]
    scores = good_episodes.scores(with_rewards(data, 100.0 * first + skill))
    assert np.corrcoef(scores, skill)[0, 1] > 0.8
    assert abs(np.corrcoef(scores, first)[0, 1]) < 0.4


@pytest.mark.parametrize(
    ("lengths", "shares"),
    [
        ((100,) * 100, (1.0, 0.5, 0.25, 0.1)),
        ((1000,) * 20, (1.0, 0.5, 0.25)),
        ((10,) * 100, (1.0,)),
        ((5000,), (1.0,)),
    ],
)
def test_small_data_have_fewer_shares(lengths, shares):
    assert good_episodes.shares(toys.transitions(lengths)) == shares


def test_what_good_episodes_earn_from_each_step_on():
    """Of four episodes the best two: one ended after 2 steps, one was cut after 4 and goes on."""
    data = toys.transitions((2, 4, 3, 4))
    rewards = np.array([5, 9, 4, 2, 2, 4, 0, 0, 0, 1, 1, 1, 1], np.float32)
    terminals = np.zeros(13, bool)
    terminals[[1, 8]] = True
    timeouts = np.zeros(13, bool)
    timeouts[[5, 12]] = True
    alike = np.zeros_like(data.observations)  # starts decide nothing
    data = dataclasses.replace(
        data, observations=alike, rewards=rewards, terminals=terminals, timeouts=timeouts
    )
    found = good_episodes.returns_to_come(data, 0.5, 6)
    ended, cut = np.array([14, 9, 0, 0, 0, 0]), np.array([18, 14, 12, 10, 6, 3])
    np.testing.assert_allclose(found[:, 0], (ended + cut) / 2)
    of_all = good_episodes.returns_to_come(data, 1.0, 3)
    np.testing.assert_allclose(of_all[0], (14 + 8 + 0 + 3) / 4)
    # After 1 step both are there; after 2 the one that was cut alone.
    later = good_episodes.returns_to_come(data, 0.5, 6, np.array([0, 1, 2, 5]))
    np.testing.assert_allclose(later[:, 0], found[:, 0])
    np.testing.assert_allclose(later[:, 1], [23 / 2, 12 / 2, 10 / 2, 6 / 2, 3 / 2, 0])
    np.testing.assert_allclose(later[:, 2], [12, 10, 6, 3, 0, 0])
    np.testing.assert_allclose(later[:, 3], [3, 0, 0, 0, 0, 0])


def test_the_best_are_whole_episodes_in_both_parts():
    data = with_rewards(toys.transitions((10,) * 40), np.arange(40.0))
    split = split_episodes(data.episode_bounds(), 0.2, seed=1)
    rows = good_episodes.best(data, 0.25, split)
    both = np.sort(np.concatenate(rows))
    np.testing.assert_array_equal(both, np.arange(300, 400))
    assert set(rows.held_out) <= set(split.held_out) and set(rows.train) <= set(split.train)
    assert good_episodes.best(data, 1.0, split) is split


def test_good_episodes_that_are_all_held_out_are_cloned_all_the_same():
    data = with_rewards(toys.transitions((10,) * 10), np.arange(10.0))
    split = Split(np.arange(90), np.arange(90, 100))
    rows = good_episodes.best(data, 0.1, split)
    np.testing.assert_array_equal(rows.train, np.arange(90, 100))
    assert not len(rows.held_out)


def test_a_cut_episode_goes_on_at_its_mean_reward():
    data = toys.transitions((20, 20, 10, 10, 4))  # odd ones end, even ones are cut
    data = with_rewards(data, [20.0, 20.0, 10.0, 7.0, 4.0])
    np.testing.assert_allclose(
        good_episodes.full_returns(data, 40), [40.0, 20.0, 40.0, 7.0, np.nan]
    )
    np.testing.assert_allclose(good_episodes.full_returns(data), [20.0, 20.0, 20.0, 7.0, np.nan])
    assert good_episodes.scores(data)[4] == -np.inf
    # A task with a shorter time limit than the data's: what came later does not count.
    np.testing.assert_allclose(good_episodes.full_returns(data, 8), [8.0, 8.0, 8.0, 5.6, 8.0])
    assert good_episodes.returns_to_come(data, 1.0, 8)[0, 0] == pytest.approx(7.4)  # of four


def test_episodes_that_all_ended_count_as_they_are():
    data = toys.transitions((20, 20))
    data = dataclasses.replace(data, terminals=data.terminals | data.timeouts)
    np.testing.assert_allclose(good_episodes.full_returns(data, 40), data.episode_returns())


@pytest.mark.parametrize(
    ("held_out", "expected"),
    [
        ([39], [39]),  # theirs, as it was drawn
        ([0], [20, 30]),  # none of theirs: every tenth, from the first on
        ([], []),  # nothing is held out
    ],
)
def test_held_out_rows_of_good_episodes_are_their_own(held_out, expected):
    """Of 40 episodes the last 20 are good."""
    data = with_rewards(toys.transitions((10,) * 40), np.arange(40.0))
    chosen = np.concatenate([np.arange(10 * e, 10 * e + 10) for e in [*held_out, 999]][:-1] or [[]])
    chosen = chosen.astype(np.int64)
    split = Split(np.setdiff1d(np.arange(400), chosen), chosen)
    train, held = good_episodes.best_with_held_out(data, 0.5, split)
    assert sorted(set(held // 10)) == expected and len(held) == 10 * len(expected)
    assert set(train // 10) == set(range(20, 40)) - set(expected)
