from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import toys

from morel_tf.planning.value_baseline import ValueBaseline, features
from offline_tf.models import networks


def _baseline(epochs=1, learning_rate=1e-3, weight_decay=0.0, hidden=(32,), batch=64, units=None):
    rng = np.random.default_rng(0)
    units = units or toys.plain_units(2, 1)
    return ValueBaseline(
        units,
        hidden=hidden,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        epochs=epochs,
        batch_size=batch,
        generator=rng,
    )


def test_it_sees_observations_in_its_units():
    far = toys.plain_units(2, 1)._replace(
        input_shift=np.float32([300.0, -5.0]), input_scale=np.float32([4.0, 0.0])
    )
    plain, other = _baseline(), _baseline(units=far)
    observations, times, returns = _samples()
    observations[:, 1] = 0.0
    moved = observations / 4.0 + np.float32([300.0, 7.0])
    plain.fit(observations, times, returns, np.random.default_rng(0))
    other.fit(moved, times, returns, np.random.default_rng(0))
    np.testing.assert_allclose(
        other.predict(moved, times), plain.predict(observations, times), rtol=1e-3
    )


def _samples(count=600, seed=0):
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(count, 2)).astype(np.float32)
    times = rng.integers(0, 1000, count).astype(np.float32)
    # A return as large as the robots': some 10^3, falling with time.
    returns = 2000.0 + 300.0 * observations[:, 0] - 1.5 * times
    return observations, times, returns


def test_features_by_hand():
    observations = tf.constant([[3.0, -25.0], [10.5, 0.0]])
    found = features(observations, tf.constant([500.0, 0.0]))
    # clip to +-10, divided by 10; then (500/1000)^1..4 (authors' mlp_baseline.py).
    expected = [[0.3, -1.0, 0.5, 0.25, 0.125, 0.0625], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_prediction_is_zero_before_the_first_fit():
    observations, times, _ = _samples(5)
    baseline = _baseline()  # a tf.function does not keep its object alive
    np.testing.assert_array_equal(baseline.predict(observations, times), np.zeros(5))


def test_prediction_is_scale_times_network_plus_shift():
    baseline = _baseline()
    baseline.scale.assign(40.0)
    baseline.shift.assign(-3.0)
    observations, times, _ = _samples(9)
    network = toys.numpy_forward(baseline.network, features(observations, times))[:, 0]
    np.testing.assert_allclose(
        baseline.predict(observations, times), 40.0 * network - 3.0, rtol=1e-4, atol=1e-4
    )


def test_fit_explains_a_known_function_on_new_samples():
    baseline = _baseline(epochs=30, learning_rate=3e-3)
    reported = baseline.fit(*_samples(), np.random.default_rng(1))
    observations, times, returns = _samples(seed=7)
    values = baseline.predict(observations, times).numpy()
    explained = 1.0 - np.var(returns - values) / np.var(returns)
    assert explained > 0.95
    assert reported == pytest.approx(explained, abs=0.05)
    assert abs(values.mean() - returns.mean()) < 0.1 * returns.std()


def test_first_fit_with_a_rate_of_zero_predicts_with_the_statistics_of_the_returns():
    baseline = _baseline(learning_rate=0.0)
    observations, times, returns = _samples()
    baseline.fit(observations, times, returns, np.random.default_rng(0))
    network = toys.numpy_forward(baseline.network, features(observations, times))[:, 0]
    expected = returns.mean() + returns.std() * network
    np.testing.assert_allclose(baseline.predict(observations, times), expected, rtol=1e-4)


def test_rescaling_moves_the_statistics_half_way_and_leaves_the_values():
    baseline = _baseline()
    baseline.shift.assign(100.0)
    baseline.scale.assign(10.0)
    observations, times, _ = _samples(20)
    before = baseline.predict(observations, times).numpy()
    baseline._rescale(-300.0, 50.0)
    np.testing.assert_allclose(baseline.predict(observations, times), before, rtol=1e-4, atol=1e-3)
    assert (float(baseline.shift), float(baseline.scale)) == (-100.0, 30.0)


def test_weight_decay_shrinks_the_weights():
    def norm(decay):
        baseline = _baseline(epochs=20, weight_decay=decay)
        baseline.fit(*_samples(200), np.random.default_rng(0))
        return sum(float(np.square(w).sum()) for w in networks.variables(baseline.network))

    assert norm(0.3) < 0.8 * norm(0.0)


def test_the_loss_is_the_minibatchs_mean_and_the_decay_is_added_to_its_gradient():
    """Read from Adam's first moment, as its steps hardly depend on a factor."""
    baseline = _baseline(learning_rate=0.0, weight_decay=0.3, batch=600)
    observations, times, returns = _samples()
    baseline.fit(observations, times, returns, np.random.default_rng(0))
    weights = networks.variables(baseline.network)
    with tf.GradientTape() as tape:
        values = networks.bind(baseline.network)(features(observations, times))[:, 0]
        targets = (returns - float(baseline.shift)) / float(baseline.scale)
        loss = tf.reduce_mean(tf.square(values - targets))
    firsts = baseline._fit.adam.moments[1 : 1 + len(weights)]
    for first, gradient, weight in zip(firsts, tape.gradient(loss, weights), weights, strict=True):
        np.testing.assert_allclose(first, 0.1 * (gradient + 0.3 * weight), rtol=1e-3, atol=1e-6)


def test_the_state_is_all_that_a_second_fit_depends_on():
    original, copy = _baseline(), _baseline()
    original.fit(*_samples(), np.random.default_rng(0))
    for target, source in zip(copy.state, original.state, strict=True):
        target.assign(source)
    for baseline in (original, copy):
        baseline.fit(*_samples(seed=3), np.random.default_rng(4))
    assert toys.bits(copy.state) == toys.bits(original.state)


def test_any_number_of_rows_can_be_fitted_after_any_other():
    """Where paths are very short an update has fewer rows than a minibatch, an odd number at times."""
    baseline = _baseline(batch=64)
    for count in (3, 200, 1, 64, 65, 2, 3):
        explained = baseline.fit(*_samples(count), np.random.default_rng(0))
        assert np.isfinite(explained)
        assert np.isfinite(baseline.predict(*_samples(count)[:2])).all()


def test_what_was_fitted_before_does_not_change_the_bits():
    """A run that goes on after a kill meets other numbers of rows first than an unbroken one."""
    fits = []
    for counts in ((600,), (350, 600)):
        baseline = _baseline(batch=64)
        first = [weight.numpy() for weight in baseline.state]
        for count in counts:
            for weight, value in zip(baseline.state, first, strict=True):
                weight.assign(value)
            baseline.fit(*_samples(count), np.random.default_rng(0))
        fits.append(toys.bits(baseline.state))
    assert fits[0] == fits[1]
