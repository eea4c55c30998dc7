import numpy as np
import pytest

from offline_tf.numerics import returns

DISCOUNT = 0.9


def random_block(seed, steps=12, paths=5):
    generator = np.random.default_rng(seed)
    rewards, values, next_values = generator.normal(size=(3, steps, paths))
    ended = generator.uniform(size=(steps, paths)) < 0.25
    terminated = ended & (generator.uniform(size=(steps, paths)) < 0.5)
    ended[-1] = True
    assert (ended & ~terminated).any() and terminated.any()
    return rewards, values, next_values, terminated, ended


def advantages(rewards, values, next_values, terminated, ended, gae_lambda):
    return returns.generalized_advantages(
        rewards,
        values=values,
        next_values=next_values,
        terminated=terminated,
        ended=ended,
        discount=DISCOUNT,
        gae_lambda=gae_lambda,
    )


def naive_discounted(rewards, ended, discount):
    steps, paths = rewards.shape
    out = np.zeros((steps, paths))
    for k in range(paths):
        for t in range(steps):
            for u in range(t, steps):
                out[t, k] += discount ** (u - t) * rewards[u, k]
                if ended[u, k]:
                    break
    return out


def naive_advantages(rewards, values, next_values, terminated, ended, discount, gae_lambda):
    steps, paths = rewards.shape
    out = np.zeros((steps, paths))
    for k in range(paths):
        for t in range(steps):
            for u in range(t, steps):
                beyond = 0.0 if terminated[u, k] else discount * next_values[u, k]
                delta = rewards[u, k] + beyond - values[u, k]
                out[t, k] += (discount * gae_lambda) ** (u - t) * delta
                if ended[u, k]:
                    break
    return out


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_discounted_returns_equal_the_double_loop(seed, discount):
    rewards, _, _, _, ended = random_block(seed)
    expected = naive_discounted(rewards, ended, discount)
    np.testing.assert_allclose(returns.discounted_returns(rewards, ended, discount), expected)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.4, 0.97, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_advantages_equal_the_double_loop(seed, gae_lambda):
    block = random_block(seed)
    expected = naive_advantages(*block, DISCOUNT, gae_lambda)
    found = advantages(*block, gae_lambda)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_geometric_series():
    # 1 + g + ... + g^9 = (1 - g^10) / (1 - g)
    ended = np.zeros((10, 1), bool)
    found = returns.discounted_returns(np.ones((10, 1)), ended, DISCOUNT)
    assert found[0, 0] == pytest.approx((1 - DISCOUNT**10) / (1 - DISCOUNT))
    assert found.dtype == np.float64


def consistent_block(seed):
    """As random_block, with next_values[t] = values[t + 1] inside a path."""
    rewards, values, next_values, terminated, ended = random_block(seed)
    inside = ~ended[:-1]
    next_values[:-1][inside] = values[1:][inside]
    return rewards, values, next_values, terminated, ended


@pytest.mark.parametrize("seed", range(3))
def test_lambda_one_is_monte_carlo_minus_value(seed):
    rewards, values, next_values, terminated, ended = consistent_block(seed)
    found = returns.generalized_advantages(
        rewards,
        values=values,
        next_values=next_values,
        terminated=terminated,
        ended=ended,
        discount=DISCOUNT,
        gae_lambda=1.0,
    )
    # A path that a time limit cut goes on with the value of the state after its last step.
    cut = ended & ~terminated
    sums = naive_discounted(rewards + DISCOUNT * np.where(cut, next_values, 0), ended, DISCOUNT)
    np.testing.assert_allclose(found, sums - values, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_lambda_zero_is_the_residual(seed):
    rewards, values, next_values, terminated, ended = random_block(seed)
    found = returns.generalized_advantages(
        rewards,
        values=values,
        next_values=next_values,
        terminated=terminated,
        ended=ended,
        discount=DISCOUNT,
        gae_lambda=0.0,
    )
    expected = rewards + DISCOUNT * np.where(terminated, 0, next_values) - values
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_exact_values_have_no_advantage():
    # Reward 1 for ever: V = 1 / (1 - g); a time limit must not look like a loss.
    value = 1 / (1 - DISCOUNT)
    shape = (6, 2)
    ended = np.zeros(shape, bool)
    ended[-1] = True
    full = np.full(shape, value)
    none = np.zeros(shape, bool)
    found = returns.generalized_advantages(
        np.ones(shape),
        values=full,
        next_values=full,
        terminated=none,
        ended=ended,
        discount=DISCOUNT,
        gae_lambda=0.97,
    )
    np.testing.assert_allclose(found, 0, atol=1e-12)


def test_time_limit_bootstraps_and_termination_does_not():
    rewards, values, next_values = np.ones((3, 1, 2))
    next_values[:] = 5.0
    terminated = np.array([[True, False]])
    found = returns.generalized_advantages(
        rewards,
        values=values,
        next_values=next_values,
        terminated=terminated,
        ended=np.ones((1, 2), bool),
        discount=DISCOUNT,
        gae_lambda=0.97,
    )
    # 1 - 1 where the path terminated; 1 + 0.9 * 5 - 1 at the time limit.
    np.testing.assert_allclose(found, [[0.0, 4.5]])


def test_nothing_flows_back_across_an_end():
    block = random_block(5)
    changed = [array.copy() for array in block]
    last = np.flatnonzero(block[4][:, 0])[0]
    assert last < 11
    for array in changed[:3]:
        array[last + 1 :, 0] += 100.0
    first = advantages(*block, 0.97)
    second = advantages(*changed, 0.97)
    np.testing.assert_array_equal(first[: last + 1], second[: last + 1])
    np.testing.assert_array_equal(first[:, 1:], second[:, 1:])
    assert (first[last + 1 :, 0] != second[last + 1 :, 0]).all()


def test_an_interval_is_196_standard_errors_each_way():
    half = 1.96 * np.sqrt(20 / 3) / 2
    found = returns.with_interval("r", np.array([1.0, 3.0, 5.0, 7.0]))
    assert found == pytest.approx({"r": 4.0, "r_low": 4.0 - half, "r_high": 4.0 + half})
    alone = returns.with_interval("r", np.array([2.0]))
    assert alone == {"r": 2.0, "r_low": 2.0, "r_high": 2.0}
