import dataclasses

import numpy as np
import pytest
import toys

from mopp_tf.models import rows
from offline_tf.types import Transitions

NONE = rows.RewardScale(0.0, 1.0)


def _data(rewards, ends, actions=None):
    """One row per letter of `ends`: t terminal, o timeout, - neither; state t, next state t + 0.5."""
    count = len(ends)
    states = np.arange(count, dtype=np.float32)[:, None] * [1.0, 10.0]
    if actions is None:
        actions = np.linspace(-0.9, 0.9, count)[:, None]
    return Transitions(
        observations=states.astype(np.float32),
        actions=np.asarray(actions, np.float32),
        rewards=np.asarray(rewards, np.float32),
        next_observations=(states + 0.5).astype(np.float32),
        terminals=np.array([x == "t" for x in ends]),
        timeouts=np.array([x == "o" for x in ends]),
    )


def test_no_next_action_crosses_an_episode_end():
    actions = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])[:, None]
    found = rows.prepare(toys.cart(), _data(np.zeros(7), "-t-oo--", actions), NONE)
    np.testing.assert_array_equal(found.has_next, [1, 0, 1, 0, 0, 1, 0])
    expected = [0.2, 0.0, 0.4, 0.0, 0.0, 0.7, 0.0]
    np.testing.assert_allclose(found.next_actions[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(found.actions, actions, rtol=1e-6)


def test_next_actions_equal_the_loop_over_episodes():
    data = toys.transitions((5, 1, 7, 3, 1, 2))
    found = rows.prepare(toys.cart(), data, NONE)
    count = 0
    for episode in data.episodes():
        for t in range(episode.start, episode.stop):
            last = t == episode.stop - 1
            assert found.has_next[t] == (not last)
            np.testing.assert_array_equal(found.next_actions[t], 0 if last else data.actions[t + 1])
            count += 1
    assert count == len(data) == len(found.states)


def test_every_transition_is_kept_terminal_rewards_too():
    data = _data([1.0, -2.0, 3.0, -50.0, 5.0], "-o-tt")
    found = rows.prepare(toys.cart(), data, NONE)
    np.testing.assert_array_equal(found.rewards, [1.0, -2.0, 3.0, -50.0, 5.0])
    np.testing.assert_array_equal(found.terminals, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(found.states, data.observations)
    # The state after the row's own action, at ends too, not the next row's state.
    np.testing.assert_array_equal(found.next_states[:, 0], [0.5, 1.5, 2.5, 3.5, 4.5])
    np.testing.assert_array_equal(found.weights, np.ones(5))
    for column in (found.rewards, found.terminals, found.actions, found.next_actions):
        assert column.dtype == np.float32


@pytest.mark.parametrize(
    ("rule", "scaled"),
    [
        ("none", [-2.0, 0.0, 1.0, 6.0]),
        ("range", [-0.25, 0.0, 0.125, 0.75]),
        ("minmax", [0.0, 0.25, 0.375, 1.0]),
    ],
)
def test_reward_scales_by_hand(rule, scaled):
    rewards = np.array([-2.0, 0.0, 1.0, 6.0], np.float32)
    scale = rows.reward_scale(rewards, rule)
    np.testing.assert_allclose(scale.apply(rewards), scaled)
    found = rows.prepare(toys.cart(), _data(rewards, "---t"), scale)
    np.testing.assert_allclose(found.rewards, scaled)


def test_the_range_keeps_the_sign_and_minmax_does_not():
    rewards = np.array([3.0, 4.0, 5.0], np.float32)
    for sign in (-1, 1):
        scaled = rows.reward_scale(sign * rewards, "range").apply(sign * rewards)
        np.testing.assert_allclose(scaled, sign * rewards / 2)
    shifted = rows.reward_scale(rewards, "minmax")
    np.testing.assert_allclose(shifted.apply(rewards), [0.0, 0.5, 1.0])
    assert shifted == (3.0, 2.0)
    assert shifted.apply(rewards.astype(np.float64)).dtype == np.float32


@pytest.mark.parametrize(("rule", "scaled"), [("none", 7.0), ("range", 7.0), ("minmax", 0.0)])
def test_a_constant_reward_is_not_divided_by_zero(rule, scaled):
    rewards = np.full(4, 7.0, np.float32)
    np.testing.assert_array_equal(
        rows.reward_scale(rewards, rule).apply(rewards), np.full(4, scaled)
    )


def test_to_unit_maps_asymmetric_bounds_to_one():
    task = toys.cart(
        action_names=("a", "b"),
        action_low=np.array([-2.0, 0.0], np.float32),
        action_high=np.array([6.0, 0.5], np.float32),
    )
    actions = np.array([[-2.0, 0.5], [6.0, 0.0], [2.0, 0.25], [0.0, 0.125], [-9.0, 9.0]])
    expected = [[-1.0, 1.0], [1.0, -1.0], [0.0, 0.0], [-0.5, -0.5], [-1.0, 1.0]]
    found = task.to_unit(actions.astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32
    data = _data(np.zeros(5), "----t", actions)
    prepared = rows.prepare(task, data, NONE)
    np.testing.assert_allclose(prepared.actions, expected, atol=1e-6)
    np.testing.assert_allclose(prepared.next_actions, [*expected[1:], [0.0, 0.0]], atol=1e-6)


def test_episode_weights_by_hand():
    # Returns 1, 4 and 7: mean 4, standard deviation sqrt(6), over rows of 1, 2 and 3.
    data = _data([1.0, 3.0, 1.0, 2.0, 2.0, 3.0], "t-o--t")
    score = 3 / np.sqrt(6.0)
    unscaled = np.exp(0.7 * score * np.array([-1, 0, 0, 1, 1, 1]))
    found = rows.episode_weights(data, 0.7)
    np.testing.assert_allclose(found, unscaled / unscaled.mean())
    assert found.mean() == pytest.approx(1.0)
    assert found[0] < found[1] == found[2] < found[3]
    prepared = rows.prepare(toys.cart(), data, NONE, return_weighting=0.7)
    np.testing.assert_array_equal(prepared.weights, found)


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_episode_weights_have_mean_one_and_the_order_of_the_returns(strength):
    data = toys.transitions((5, 8, 3, 11, 2), seed=1)
    found = rows.episode_weights(data, strength)
    assert found.shape == (29,)
    assert found.mean() == pytest.approx(1.0)
    returns = [data.rewards[e].sum() for e in data.episodes()]
    weights = [found[e] for e in data.episodes()]
    assert all(np.ptp(w) == 0 for w in weights)
    values = np.array([w[0] for w in weights])[np.argsort(returns)]
    assert (np.diff(values) > 0).all() if strength else (values == 1).all()


def test_episodes_of_equal_return_weigh_alike():
    data = _data([1.0, 2.0, 3.0], "t-t")
    equal = dataclasses.replace(data, rewards=np.array([3.0, 1.0, 2.0], np.float32))
    np.testing.assert_allclose(rows.episode_weights(equal, 5.0), np.ones(3))


def test_dynamics_targets_by_hand():
    found = rows.prepare(toys.cart(), _data([1.0, -2.0, 6.0], "--t"), rows.RewardScale(1.0, 4.0))
    delta = [[0.5, 0.5, 0.0], [0.5, 0.5, -0.75], [0.5, 0.5, 1.25]]
    absolute = [[0.5, 0.5, 0.0], [1.5, 10.5, -0.75], [2.5, 20.5, 1.25]]
    np.testing.assert_allclose(rows.dynamics_targets(found, "delta"), delta)
    np.testing.assert_allclose(rows.dynamics_targets(found, "absolute"), absolute)


@pytest.mark.parametrize("kind", ["delta", "absolute"])
def test_normalizer_standardises_each_dimension(kind):
    found = rows.prepare(toys.cart(), toys.transitions((30, 20), noise=(0.1, 0.1)), NONE)
    normalizer = rows.fit_normalizer(found, kind, normalize=True)
    targets = rows.dynamics_targets(found, kind)
    for statistics, values in zip(normalizer, (found.states, found.actions, targets)):
        expected = (values - values.mean(axis=0)) / values.std(axis=0)
        np.testing.assert_allclose(statistics.normalize(values), expected, atol=1e-4)
        assert np.abs(statistics.shift).max() > 0.01


def test_a_dimension_that_never_changes_keeps_scale_one():
    data = _data([2.0, 2.0, 2.0, 2.0], "---t")  # constant reward, constant delta
    found = rows.prepare(toys.cart(), data, NONE)
    normalizer = rows.fit_normalizer(found, "delta", normalize=True)
    np.testing.assert_array_equal(normalizer.targets.scale, np.ones(3))
    np.testing.assert_array_equal(normalizer.targets.shift, [0.5, 0.5, 2.0])
    # 0, 1, 2, 3 has variance 5/4.
    np.testing.assert_allclose(normalizer.states.scale, np.sqrt(1.25) * np.array([1, 10]))
    np.testing.assert_allclose(normalizer.states.shift, [1.5, 15.0])


@pytest.mark.parametrize("kind", ["delta", "absolute"])
def test_no_normalizer_changes_nothing(kind):
    found = rows.prepare(toys.cart(), toys.transitions(), NONE)
    for statistics, width in zip(rows.fit_normalizer(found, kind, False), (2, 1, 3)):
        np.testing.assert_array_equal(statistics.shift, np.zeros(width))
        np.testing.assert_array_equal(statistics.scale, np.ones(width))


def test_windows_by_hand():
    data = _data([1.0, 2.0, 4.0, 8.0, 16.0], "--t-o")
    found = rows.windows(rows.prepare(toys.cart(), data, NONE), 2, 0.5)
    np.testing.assert_allclose(found.rewards, [2.0, 4.0, 4.0, 16.0, 16.0])
    np.testing.assert_array_equal(found.last, [1, 2, 2, 4, 4])
    np.testing.assert_allclose(found.discounts, [0.25, 0.25, 0.5, 0.25, 0.5])
    one = rows.windows(rows.prepare(toys.cart(), data, NONE), 1, 0.5)
    np.testing.assert_array_equal(one.last, np.arange(5))
    np.testing.assert_array_equal(one.rewards, data.rewards)
    np.testing.assert_allclose(one.discounts, 0.5)


def test_windows_end_before_steps_that_the_policy_does_not_take():
    data = _data([1.0, 2.0, 4.0, 8.0, 16.0], "----o")
    followed = np.array([False, True, True, False, False])
    found = rows.windows(rows.prepare(toys.cart(), data, NONE), 3, 0.5, followed)
    np.testing.assert_array_equal(found.last, [2, 2, 2, 3, 4])
    np.testing.assert_allclose(found.rewards, [3.0, 4.0, 4.0, 8.0, 16.0])
    np.testing.assert_allclose(found.discounts, [0.125, 0.25, 0.5, 0.5, 0.5])


def test_windows_equal_the_loop_over_episodes():
    data = toys.transitions((5, 1, 7, 3, 1, 2))
    table = rows.prepare(toys.cart(), data, rows.RewardScale(0.1, 2.0))
    found = rows.windows(table, 4, 0.9)
    for episode in data.episodes():
        for t in range(episode.start, episode.stop):
            steps = range(t, min(t + 4, episode.stop))
            expected = sum(0.9**i * float(table.rewards[j]) for i, j in enumerate(steps))
            np.testing.assert_allclose(found.rewards[t], expected, rtol=1e-5)
            assert found.last[t] == steps[-1]
            np.testing.assert_allclose(found.discounts[t], 0.9 ** len(steps), rtol=1e-6)
