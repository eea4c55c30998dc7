import numpy as np
import pytest
import tensorflow as tf

from mopp_tf.planning import averaging


def _block(seed, rows=3, population=7, spread=2.0):
    """Random actions [E, N, H, A], returns [E, N] and who is kept: the first two, never the third."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (rows, population, 2, 3)).astype(np.float32)
    returns = rng.normal(scale=spread, size=(rows, population)).astype(np.float32)
    keep = rng.uniform(size=(rows, population)) < 0.6
    keep[:, :3] = True, True, False
    return actions, returns, keep


def _average(actions, returns, keep, inverse_temperature, relative):
    block = (tf.constant(x) for x in (actions, returns, keep))
    return averaging.weighted_average(*block, inverse_temperature, relative)


def _naive(actions, returns, keep, inverse_temperature, relative):
    """One row after the other, in float64 and without the shift by the best."""
    plans, weights = np.zeros((len(actions), *actions.shape[2:])), np.zeros(returns.shape)
    for e in range(len(actions)):
        kept = np.flatnonzero(keep[e])
        values = returns[e, kept].astype(np.float64)
        if relative:
            values = values / np.sqrt(np.mean((values - values.mean()) ** 2))
        unscaled = [np.exp(inverse_temperature * value) for value in values]
        for n, weight in zip(kept, unscaled):
            weights[e, n] = weight / sum(unscaled)
            plans[e] += weights[e, n] * actions[e, n]
    return plans, weights


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("inverse_temperature", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("seed", range(2))
def test_equals_the_loop(seed, inverse_temperature, relative):
    block = _block(seed)
    plans, weights = _naive(*block, inverse_temperature, relative)
    found = _average(*block, inverse_temperature, relative)
    np.testing.assert_allclose(found.weights, weights, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.plan, plans, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.effective_sample_size, 1 / (weights**2).sum(1), rtol=1e-4)


def test_two_candidates_by_hand():
    # Returns 1 and 3, kappa 0.5: w = (1, e) / (1 + e). Population standard deviation of (1, 3): 1.
    actions = np.array([[[[0.0]], [[1.0]]]], np.float32)
    returns, keep = np.array([[1.0, 3.0]], np.float32), np.ones((1, 2), bool)
    for relative in (False, True):
        found = _average(actions, returns, keep, 0.5, relative)
        assert float(found.plan[0, 0, 0]) == pytest.approx(np.e / (1 + np.e), rel=1e-5)
        size = (1 + np.e) ** 2 / (1 + np.e**2)
        assert float(found.effective_sample_size[0]) == pytest.approx(size, rel=1e-5)
    found = _average(actions, 5 * returns, keep, 0.5, relative=False)
    assert float(found.plan[0, 0, 0]) == pytest.approx(1 / (1 + np.exp(-5.0)), rel=1e-5)


@pytest.mark.parametrize("relative", [False, True])
def test_inverse_temperature_zero_gives_the_mean_of_the_kept(relative):
    actions, returns, keep = _block(0)
    found = _average(actions, returns, keep, 0.0, relative)
    for e in range(3):
        np.testing.assert_allclose(found.plan[e], actions[e, keep[e]].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.effective_sample_size, keep.sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("inverse_temperature", [1e6, 1e30, np.inf])
def test_a_huge_inverse_temperature_gives_the_best_of_the_kept(inverse_temperature, relative):
    actions, returns, keep = _block(1)
    returns[:, 2] = 50.0  # better than all, but pruned
    found = _average(actions, returns, keep, inverse_temperature, relative)
    for e in range(3):
        best = max(np.flatnonzero(keep[e]), key=lambda n: returns[e, n])
        np.testing.assert_allclose(found.plan[e], actions[e, best], atol=1e-6)
    np.testing.assert_allclose(found.effective_sample_size, np.ones(3))


def test_equals_share_at_an_infinite_inverse_temperature():
    actions = np.array([[[[0.0]], [[1.0]], [[5.0]]]], np.float32)
    returns = np.array([[2.0, 2.0, 1.0]], np.float32)
    for relative in (False, True):
        found = _average(actions, returns, returns > 0, np.inf, relative)
        np.testing.assert_array_equal(found.weights, [[0.5, 0.5, 0.0]])
        np.testing.assert_array_equal(found.plan, [[[0.5]]])


@pytest.mark.parametrize("relative", [False, True])
def test_a_constant_on_all_returns_changes_nothing(relative):
    actions, _, keep = _block(2)
    # Multiples of 1/8 stay exact beside 4096.
    returns = (np.random.default_rng(2).integers(-40, 40, keep.shape) / 8).astype(np.float32)
    before = _average(actions, returns, keep, 1.5, relative)
    for constant in (-4096.0, 7.0, 4096.0):
        after = _average(actions, returns + constant, keep, 1.5, relative)
        np.testing.assert_allclose(after.weights, before.weights, rtol=1e-3)
    assert np.ptp(before.weights[0]) > 0.1


@pytest.mark.parametrize("factor", [1e-3, 0.5, 40.0, 1e4])
def test_relative_units_know_no_scale(factor):
    actions, returns, keep = _block(3)
    before, after = (
        _average(actions, r, keep, 2.0, relative=True)
        for r in (returns, np.float32(factor) * returns)
    )
    np.testing.assert_allclose(after.plan, before.plan, rtol=1e-4, atol=1e-5)
    absolute = _average(actions, np.float32(factor) * returns, keep, 2.0, False)
    assert np.abs(absolute.weights - before.weights).max() > 0.05


@pytest.mark.parametrize("sign", [-1, 1])
def test_nothing_overflows_at_returns_of_ten_thousand(sign):
    actions, _, keep = _block(4)
    # 833 apart: exp(-10 * 833) is 0, so that only the best is left. Pruned ones hold 0.
    returns = (sign * np.linspace(5e3, 1e4, 7) * keep).astype(np.float32)
    found = _average(actions, returns, keep, 10.0, relative=False)
    best = [(np.flatnonzero(row)[-1] if sign > 0 else 0) for row in keep]
    np.testing.assert_array_equal(found.weights, np.eye(7)[best])
    found = _average(actions, returns, keep, 10.0, relative=True)
    plans, weights = _naive(actions, returns, keep, 10.0, relative=True)
    np.testing.assert_allclose(found.weights, weights, rtol=1e-3, atol=1e-12)
    np.testing.assert_allclose(found.plan, plans, atol=1e-4)


@pytest.mark.parametrize("relative", [False, True])
def test_equal_returns_have_equal_weights(relative):
    actions, returns, keep = _block(5)
    found = _average(actions, 0 * returns - 3e3, keep, 10.0, relative)
    expected = keep / keep.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.weights, expected, rtol=1e-6)


def test_rounding_errors_are_no_spread():
    actions = np.array([[[[0.0]], [[1.0]]]], np.float32)
    returns, keep = np.array([[0.0, 1e-9]], np.float32), np.ones((1, 2), bool)
    found = _average(actions, returns, keep, 10.0, relative=True)
    # Their deviation 5e-10 would make the second e^20 times as heavy; 1e-6 is the least unit.
    assert float(found.plan[0, 0, 0]) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_the_plan_lies_in_the_hull_of_the_kept(seed):
    actions, returns, keep = _block(seed)
    found = _average(actions, returns, keep, 1.0, relative=False)
    for e in range(3):
        kept = actions[e, keep[e]]
        assert (found.plan[e].numpy() >= kept.min(axis=0) - 1e-6).all()
        assert (found.plan[e].numpy() <= kept.max(axis=0) + 1e-6).all()
        np.testing.assert_array_equal(found.weights[e].numpy() > 0, keep[e])


def test_effective_sample_size_lies_between_one_and_the_kept_and_falls():
    actions, returns, keep = _block(6)
    sizes = np.array(
        [
            _average(actions, returns, keep, kappa, False).effective_sample_size
            for kappa in (0.0, 0.1, 0.5, 2.0, 100.0)
        ]
    )
    assert (sizes >= 1 - 1e-6).all()
    assert (sizes <= keep.sum(axis=1) * (1 + 1e-6)).all()
    assert (np.diff(sizes, axis=0) < 0).all()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("relative", [False, True])
def test_what_is_pruned_may_hold_anything(relative, broken):
    actions, returns, keep = _block(7)
    clean = _average(actions, returns, keep, 1.0, relative)
    actions[~keep], returns[~keep] = broken, broken
    found = _average(actions, returns, keep, 1.0, relative)
    for after, before in zip(found, clean):
        np.testing.assert_array_equal(after, before)
    assert np.isfinite(found.plan).all()


def test_rows_do_not_leak():
    actions, returns, keep = _block(8)
    before = _average(actions, returns, keep, 1.0, relative=True)
    returns[1], actions[1] = 1e4 * returns[1, ::-1], 0.0
    after = _average(actions, returns, keep, 1.0, relative=True)
    np.testing.assert_array_equal(after.plan.numpy()[[0, 2]], before.plan.numpy()[[0, 2]])
    np.testing.assert_array_equal(after.plan[1], np.zeros((2, 3)))


def test_spread_is_the_population_deviation_of_the_kept():
    returns = np.array([[1.0, 5.0, 100.0], [2.0, 2.0, 2.0], [9.0, 1.0, 4.0]], np.float32)
    keep = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 1]], bool)
    np.testing.assert_allclose(averaging.spread(returns, keep), [2.0, 0.0, 0.0])
    everyone = averaging.spread(returns, np.ones((3, 3), bool))
    np.testing.assert_allclose(everyone, returns.std(axis=1), rtol=1e-6)


def test_shapes_are_checked():
    actions, returns, keep = _block(9)
    with pytest.raises(ValueError):
        _average(actions, returns[:, :-1], keep, 1.0, relative=False)


def test_entropy_by_hand():
    weights = tf.constant([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0], [0.5, 0.25, 0.25, 0.0]])
    expected = [np.log(4), 0.0, 1.5 * np.log(2)]
    np.testing.assert_allclose(averaging.entropy(weights), expected, atol=1e-6)
