from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import toys

from morel_tf.planning import natural_gradient
from morel_tf.planning.natural_gradient import (
    NaturalGradient,
    conjugate_gradient,
    fisher_product,
    flatten,
    gaussian_kl,
    unflatten,
)
from offline_tf.policies.gaussian import GaussianPolicy

tfd = tfp.distributions


def _policy(seed=0, hidden=(4,)):
    """3 observations, 2 actions, unequal log standard deviations and inputs scales."""
    units = toys.plain_units(3, 2)._replace(input_scale=np.array([1.0, 0.5, 2.0]))
    policy = GaussianPolicy(units, hidden, -0.5, np.random.default_rng(seed))
    rng = np.random.default_rng(seed + 1)
    for weight in policy.weights:  # away from the tiny first output layer
        weight.assign(weight + 0.4 * rng.normal(size=weight.shape).astype(np.float32))
    return policy


def _samples(policy, count, seed=0):
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(count, 3)).astype(np.float32)
    actions = policy.numpy().sample(observations, rng).astype(np.float32)
    advantages = rng.normal(size=count).astype(np.float32)
    return tf.constant(observations), tf.constant(actions), tf.constant(advantages)


def _step(policy, samples, kl, cg=40, damping=1e-3, share=1.0, bounds=(-5.0, 1.0), graph=False):
    """One step; without a graph, as tracing takes longer than a tiny step."""
    natural_gradient = NaturalGradient(
        policy,
        cg_iterations=cg,
        cg_damping=damping,
        fisher_share=share,
        min_log_std=bounds[0],
        max_log_std=bounds[1],
    )
    tf.config.run_functions_eagerly(not graph)
    try:
        return natural_gradient.step(*samples, tf.constant(kl))
    finally:
        tf.config.run_functions_eagerly(False)


def _matrix(product, size):
    return np.stack([product(tf.constant(row)).numpy() for row in np.eye(size, dtype=np.float32)])


def test_conjugate_gradient_solves_a_random_positive_definite_system():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(12, 12))
    matrix = root @ root.T + 0.5 * np.eye(12)
    right = rng.normal(size=12)
    operator = tf.constant(matrix)
    found = conjugate_gradient(lambda v: tf.linalg.matvec(operator, v), tf.constant(right), 60)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, right), rtol=1e-5, atol=1e-7)


def test_conjugate_gradient_is_exact_after_as_many_steps_as_distinct_eigenvalues():
    # Three distinct eigenvalues: CG ends after three steps, in exact arithmetic.
    diagonal = np.array([1.0, 1.0, 2.0, 5.0, 5.0])
    right = np.array([1.0, -2.0, 3.0, 0.5, 4.0])
    found = conjugate_gradient(lambda v: v * diagonal, tf.constant(right), 3, tolerance=0.0)
    np.testing.assert_allclose(found, right / diagonal, rtol=1e-12)
    early = conjugate_gradient(lambda v: v * diagonal, tf.constant(right), 2, tolerance=0.0)
    assert np.abs(early - right / diagonal).max() > 1e-3


def test_fisher_product_is_the_expected_outer_product_of_scores():
    policy = _policy()
    observations = tf.constant(np.random.default_rng(3).normal(size=(5, 3)), tf.float32)
    # A score is a polynomial of degree 2 in the noise, so 3-point Gauss-Hermite quadrature
    # (exact to degree 5) gives E[score score'] exactly.
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    noise = np.array(list(itertools.product(nodes, nodes)), np.float32)
    share = np.outer(weights, weights).reshape(-1) / weights.sum() ** 2
    stacked = tf.repeat(observations, 9, axis=0)
    actions = policy.mean(stacked) + tf.exp(policy.log_std) * np.tile(noise, (5, 1))
    with tf.GradientTape() as tape:
        log_prob = policy.distribution(stacked).log_prob(tf.stop_gradient(actions))
    rows = tape.jacobian(log_prob, policy.weights)
    scores = np.concatenate([r.numpy().reshape(45, -1) for r in rows], axis=1)
    size = scores.shape[1]
    expected = (scores * np.tile(share, 5)[:, None]).T @ scores / 5
    found = _matrix(fisher_product(policy, observations, 0.0), size)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[-2:, -2:], 2.0 * np.eye(2), atol=1e-6)
    damped = _matrix(fisher_product(policy, observations, 0.7), size)
    np.testing.assert_allclose(damped - found, 0.7 * np.eye(size), atol=1e-5)


def test_fisher_product_is_the_hessian_of_the_mean_kl():
    policy = _policy(seed=5)
    observations = tf.constant(np.random.default_rng(4).normal(size=(6, 3)), tf.float32)
    old_mean, old_log_std = policy.mean(observations), tf.identity(policy.log_std)
    size = sum(int(np.prod(w.shape)) for w in policy.weights)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            kl = gaussian_kl(old_mean, old_log_std, policy.mean(observations), policy.log_std)
        gradient = flatten(inner.gradient(kl, policy.weights))
    rows = outer.jacobian(gradient, policy.weights)
    hessian = np.concatenate([r.numpy().reshape(size, -1) for r in rows], axis=1)
    found = _matrix(fisher_product(policy, observations, 0.0), size)
    np.testing.assert_allclose(found, hessian, rtol=1e-3, atol=1e-5)


def test_gaussian_kl_is_that_of_tensorflow_probability():
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(2, 7, 3)).astype(np.float32)
    old_log_std, log_std = rng.normal(scale=0.5, size=(2, 3)).astype(np.float32)
    expected = tfd.kl_divergence(
        tfd.MultivariateNormalDiag(old, np.exp(old_log_std)),
        tfd.MultivariateNormalDiag(new, np.exp(log_std)),
    )
    np.testing.assert_allclose(
        gaussian_kl(old, old_log_std, new, log_std), np.mean(expected), rtol=1e-5
    )
    assert float(gaussian_kl(old, log_std, old, log_std)) == pytest.approx(0.0, abs=1e-6)


def test_unflatten_undoes_flatten():
    variables = [tf.Variable(tf.random.stateless_normal(s, [1, 2])) for s in ([2, 3], [3], [1, 4])]
    vector = flatten(variables)
    assert vector.shape == (13,)
    for back, variable in zip(unflatten(vector, variables), variables, strict=True):
        np.testing.assert_array_equal(back, variable)


def test_step_has_the_closed_form_of_a_single_gaussian():
    """Where every observation is zero the policy is N(b, sigma^2); F = diag(1 / sigma^2, 2)."""
    policy = toys.linear_policy([[0.0]], [0.4], log_std=-0.7)
    rng = np.random.default_rng(0)
    sigma = np.exp(-0.7)
    actions = 0.4 + sigma * rng.normal(size=500)
    advantages = rng.normal(size=500)
    z = (actions - 0.4) / sigma
    gradient = np.array([(advantages * z).mean() / sigma, (advantages * (z * z - 1)).mean()])
    direction = gradient / np.array([1 / sigma**2, 2.0])
    kl = 1e-3
    delta = direction * np.sqrt(2 * kl / (gradient @ direction))
    columns = (np.zeros((500, 1)), actions[:, None], advantages)
    _step(policy, [tf.constant(x, tf.float32) for x in columns], kl, damping=0.0)
    found = [policy.weights[1].numpy()[0] - 0.4, policy.log_std.numpy()[0] + 0.7]
    np.testing.assert_allclose(found, delta, rtol=1e-3)
    assert policy.weights[0].numpy()[0, 0] == 0.0


def test_step_reaches_the_target_kl_to_second_order_and_improves():
    errors = []
    for target in (1e-2, 1e-4):
        policy = _policy(hidden=())
        observations, actions, advantages = _samples(policy, 400)
        before = policy.distribution(observations)
        old = tfd.MultivariateNormalDiag(before.mean(), tf.exp(tf.identity(policy.log_std)))
        report = _step(policy, (observations, actions, advantages), target, damping=1e-6)
        measured = tf.reduce_mean(old.kl_divergence(policy.distribution(observations)))
        assert float(report.kl) == pytest.approx(float(measured), rel=1e-2)
        ratio = tf.exp(policy.distribution(observations).log_prob(actions) - old.log_prob(actions))
        gained = float(tf.reduce_mean((ratio - 1.0) * advantages))
        assert float(report.improvement) == pytest.approx(gained, rel=1e-2)
        assert gained > 0
        assert float(report.residual) < 1e-3
        assert float(report.log_std) == pytest.approx(float(np.mean(policy.log_std)))
        errors.append(abs(float(report.kl) / target - 1.0))
    # The KL's third-order term is sqrt(kl) of its second-order one: 10 times less at 1e-4.
    assert errors[0] < 0.1
    assert errors[1] == pytest.approx(0.1 * errors[0], rel=0.3)


def test_damping_shortens_the_step(monkeypatch):
    monkeypatch.setattr(natural_gradient, "_MOST_KL", np.inf)

    def kl_with(damping):
        policy = _policy()
        return float(_step(policy, _samples(policy, 200), 1e-3, damping=damping).kl)

    assert kl_with(1e-6) > 1.5 * kl_with(1.0) > 0.0


def test_step_does_not_depend_on_the_scale_of_the_advantages():
    plain, scaled = _policy(), _policy()
    observations, actions, advantages = _samples(plain, 200)
    _step(plain, (observations, actions, advantages), 5e-3)
    _step(scaled, (observations, actions, 8.0 * advantages), 5e-3)
    np.testing.assert_allclose(flatten(plain.weights), flatten(scaled.weights), atol=1e-5)


@pytest.mark.parametrize(("kl", "graph"), [(1e-3, False), (1e-2, True), (1.0, False)])
def test_a_step_that_goes_too_far_is_shortened_along_its_direction(kl, graph, monkeypatch):
    def moved(most):
        monkeypatch.setattr(natural_gradient, "_MOST_KL", most)
        policy = _policy()
        samples, before = _samples(policy, 200), flatten(policy.weights).numpy()
        report = _step(policy, samples, kl, damping=1e-6, graph=graph)
        return flatten(policy.weights).numpy() - before, report, policy, samples

    whole, unbounded, *_ = moved(np.inf)
    step, report, policy, samples = moved(2.0)
    found = float(report.kl)
    assert float(unbounded.kl) > 2.0 * kl >= found > 0.1 * kl
    cosine = step @ whole / np.linalg.norm(step) / np.linalg.norm(whole)
    assert cosine > 0.9999
    assert float(unbounded.share) == 1.0 > float(report.share)
    share = np.linalg.norm(step) / np.linalg.norm(whole)
    assert float(report.share) == pytest.approx(share, rel=1e-3)
    # What is reported is what was done.
    again = _policy()
    mean, log_std = again.mean(samples[0]), again.log_std
    expected = gaussian_kl(mean, log_std, policy.mean(samples[0]), policy.log_std)
    assert found == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize(("wrong", "graph"), [(np.nan, True), (np.inf, False)])
def test_a_step_that_is_no_number_is_not_taken(wrong, graph):
    policy = _policy()
    before = flatten(policy.weights).numpy()
    observations, actions, advantages = _samples(policy, 200)
    broken = tf.tensor_scatter_nd_update(advantages, [[3]], [wrong])
    report = _step(policy, (observations, actions, broken), 1e-3, graph=graph)
    assert np.isnan(report.kl) and report.share == 0.0
    np.testing.assert_array_equal(flatten(policy.weights), before)


def test_units_of_actions_change_nothing_but_the_units():
    """The same step for a policy whose actions are 10 + 50 times another's."""
    plain = _policy()
    other = GaussianPolicy(
        plain.units._replace(output_shift=[10.0, 10.0], output_scale=[50.0, 50.0]), (4,), -0.5
    )
    other.assign(plain.numpy())
    np.testing.assert_allclose(other.log_std - plain.log_std, 2 * [0.0], atol=1e-6)
    other.log_std.assign(plain.log_std + np.log(np.float32(50.0)))
    observations, actions, advantages = _samples(plain, 200)
    one = _step(plain, (observations, actions, advantages), 1e-3, damping=0.1)
    two = _step(other, (observations, 10.0 + 50.0 * actions, advantages), 1e-3, damping=0.1)
    assert float(two.kl) == pytest.approx(float(one.kl), rel=1e-2)
    for a, b in zip(plain.weights[:-1], other.weights[:-1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    np.testing.assert_allclose(other.log_std, plain.log_std + np.log(50.0), atol=1e-3)
    _step(other, (observations, 10.0 + 50.0 * actions, advantages), 1e-3, bounds=(-0.4, -0.3))
    assert (np.log(50.0) - 0.4001 < other.log_std.numpy()).all()
    assert (other.log_std.numpy() < np.log(50.0) - 0.2999).all()


def test_log_std_stays_within_its_bounds_and_the_kl_counts_the_bound():
    policy = _policy()
    observations, actions, advantages = _samples(policy, 100)
    policy.log_std.assign([-1.0, 0.5])
    old_mean, old_log_std = policy.mean(observations), tf.identity(policy.log_std)
    report = _step(policy, (observations, actions, advantages), 1e-4, bounds=(-0.75, 0.25))
    np.testing.assert_array_equal(policy.log_std, [-0.75, 0.25])
    expected = gaussian_kl(old_mean, old_log_std, policy.mean(observations), policy.log_std)
    assert float(report.kl) == pytest.approx(float(expected), rel=1e-4)


def test_fisher_share_takes_every_nth_sample():
    """Half of the samples, with every second one doubled, is the whole of the doubled ones."""
    half, doubled = _policy(), _policy()
    observations, actions, advantages = _samples(half, 60)
    other = tf.random.stateless_normal([60, 3], [5, 6])
    mixed = tf.reshape(tf.stack([observations, other], axis=1), [120, 3])
    repeated = tf.repeat(observations, 2, axis=0)
    # Odd samples have no advantage, so the gradient sees only even ones in both cases.
    weights = tf.reshape(tf.stack([advantages, tf.zeros(60)], axis=1), [120])
    twice = tf.repeat(actions, 2, axis=0)
    # Few steps and much damping: CG in float32 does not get to amplify rounding.
    _step(half, (mixed, twice, weights), 1e-3, cg=6, damping=0.1, share=0.5)
    _step(doubled, (repeated, twice, weights), 1e-3, cg=6, damping=0.1)
    np.testing.assert_allclose(flatten(half.weights), flatten(doubled.weights), atol=1e-5)
