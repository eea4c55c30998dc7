from __future__ import annotations

import dataclasses
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import toys

from mopp_tf.config import ModelConfig
from mopp_tf.models import autoregressive_density, autoregressive_network, training
from mopp_tf.models.autoregressive_density import Density, DiagonalDensity, Parameters
from mopp_tf.models.autoregressive_network import AutoregressiveNetwork
from offline_tf.models import networks
from offline_tf.numerics.holdout import Split

ORDERS = [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)]
STDS = np.array([0.3, 0.6, 0.9, 0.15])
CONDITIONINGS = ["teacher", "mode"]


def _normal(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)


def _raw_std(std):
    """The head output whose std is `std`: log std = -5 + 2.5 (tanh(raw) + 1), authors' networks.py."""
    return np.arctanh((np.log(std) + 5.0) / 2.5 - 1.0)


@dataclasses.dataclass
class Linear:
    """x_o(i) = W c + m + sum_j B x_o(j) + sigma eps, with B[o(i), o(j)] = 0 for j >= i."""

    network: AutoregressiveNetwork
    weights: np.ndarray
    offset: np.ndarray
    earlier: np.ndarray

    def means(self, conditions):
        """(I - B)^-1 (W c + m), [B, D]."""
        drive = conditions @ self.weights.T + self.offset
        return np.linalg.solve(np.eye(len(self.offset)) - self.earlier, drive.T).T

    def covariance(self, stds):
        """(I - B)^-1 S^2 (I - B)^-T."""
        inverse = np.linalg.inv(np.eye(len(stds)) - self.earlier)
        return inverse @ np.diag(stds**2) @ inverse.T


def _linear(order, seed=0):
    """A linear ADM of four dimensions and two conditions."""
    rng = np.random.default_rng(seed)
    dim = len(order)
    network = AutoregressiveNetwork(2, order=order, latent_dim=2, encoder_hidden=(), head_hidden=())
    weights, offset = rng.normal(size=(dim, 2)), rng.normal(size=dim)
    earlier = np.zeros((dim, dim))
    networks.variables(network.encoder)[0].assign(np.eye(2))
    for i, d in enumerate(order):
        earlier[d, list(order[:i])] = rng.uniform(0.3, 0.9, i) * rng.choice([-1, 1], i)
        kernel = np.zeros((2 + i, 2))
        kernel[:2, 0], kernel[2:, 0] = weights[d], earlier[d, list(order[:i])]
        for variable, value in zip(
            networks.variables(network.heads[i]), (kernel, [offset[d], _raw_std(STDS[d])])
        ):
            variable.assign(np.asarray(value, np.float32))
    return Linear(network, weights, offset, earlier)


def _random(order, components=1, seed=0, scale=1.0):
    """An ADM with hidden layers and random weights, biases too."""
    network = AutoregressiveNetwork(
        2,
        order=order,
        latent_dim=3,
        encoder_hidden=(16,),
        head_hidden=(16, 8),
        components=components,
        seed=seed,
    )
    rng = np.random.default_rng(seed)
    for variable in networks.variables(network):
        variable.assign(variable + 0.1 * scale * rng.normal(size=variable.shape))
    return network


def _naive(network, squash, conditioning, conditions, targets):
    """log p [B, D] and modes [B, D], head after head in float64."""
    latent = toys.numpy_forward(network.encoder, conditions)
    log_prob, modes = np.zeros(targets.shape), np.zeros(targets.shape)
    fed = []
    for head, d in zip(network.heads, network.order):
        outputs = toys.numpy_forward(head, np.column_stack([latent, *fed]))
        if outputs.shape[1] == 2:
            outputs = np.column_stack([np.zeros(len(outputs)), outputs])
        logits, means, raw = np.split(outputs, 3, axis=1)
        stds = np.exp(-5.0 + 2.5 * (np.tanh(raw) + 1.0))
        shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        x = np.arctanh(targets[:, d]) if squash else targets[:, d]
        density = np.logaddexp.reduce(shares + _normal(x[:, None], means, stds), axis=1)
        log_prob[:, d] = density - (np.log(1 - targets[:, d] ** 2) if squash else 0)
        best = means[np.arange(len(means)), logits.argmax(axis=1)]
        modes[:, d] = np.tanh(best) if squash else best
        fed.append(targets[:, d] if conditioning == "teacher" else modes[:, d])
    return log_prob, modes


def _points(rows, dim, seed=0, bound=0.95):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 2)), rng.uniform(-bound, bound, (rows, dim))


def _float(*arrays):
    return [tf.constant(x, tf.float32) for x in arrays]


@pytest.mark.parametrize("order", ORDERS)
def test_a_linear_adm_is_the_normal_of_the_chain_rule(order):
    linear = _linear(order)
    conditions, targets = _points(50, 4, bound=2.0)
    found = Density(autoregressive_density.read(linear.network), False, "teacher").log_prob(
        *_float(conditions, targets)
    )
    rest, covariance = targets - linear.means(conditions), linear.covariance(STDS)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() > 0.1
    squares = np.einsum("bi,ij,bj->b", rest, np.linalg.inv(covariance), rest)
    expected = -0.5 * (squares + np.linalg.slogdet(2 * np.pi * covariance)[1])
    np.testing.assert_allclose(tf.reduce_sum(found, axis=1), expected, rtol=1e-4)


@pytest.mark.parametrize("order", ORDERS)
def test_a_linear_adm_fed_with_modes_is_a_diagonal_normal(order):
    linear = _linear(order)
    conditions, targets = _points(50, 4, bound=2.0)
    model = Density(autoregressive_density.read(linear.network), False, "mode")
    expected = _normal(targets, linear.means(conditions), STDS)
    found = model.log_prob(*_float(conditions, targets))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        model.mode(*_float(conditions)), linear.means(conditions), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("components", [1, 3])
def test_log_prob_and_modes_equal_the_loop(components, squash, conditioning):
    for order in ORDERS:
        network = _random(order, components)
        conditions, targets = _points(30, 4)
        expected, modes = _naive(network, squash, conditioning, conditions, targets)
        model = Density(autoregressive_density.read(network), squash, conditioning)
        found = model.log_prob(*_float(conditions, targets))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-3)
        # Modes are fed with modes, however the network was fitted.
        if conditioning == "teacher":
            _, modes = _naive(network, squash, "mode", conditions, targets)
        np.testing.assert_allclose(model.mode(*_float(conditions)), modes, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("components", [1, 3])
def test_log_prob_depends_on_earlier_dimensions_only(order, components):
    network = _random(order, components)
    conditions, targets = _float(*_points(20, 4))
    for conditioning in CONDITIONINGS:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(targets)
            found = Density(autoregressive_density.read(network), True, conditioning).log_prob(
                conditions, targets
            )
            columns = tf.unstack(found, axis=1)
        slopes = [np.abs(tape.gradient(column, targets)).max(axis=0) for column in columns]
        for i, row in enumerate(order):
            for j, column in enumerate(order):
                depends = j <= i if conditioning == "teacher" else i == j
                assert (slopes[row][column] > 1e-3) == depends
                assert depends or slopes[row][column] == 0


@pytest.mark.parametrize("order", ORDERS)
def test_head_i_predicts_dimension_order_i(order):
    network = AutoregressiveNetwork(
        2, order=order, latent_dim=3, encoder_hidden=(16,), head_hidden=(16, 8)
    )
    for i, head in enumerate(network.heads):
        networks.variables(head)[-2].assign(np.zeros((8, 2)))
        networks.variables(head)[-1].assign([10.0 + i, _raw_std(0.1 * (i + 1))])
    expected = np.zeros(4)
    expected[list(order)] = [10.0, 11.0, 12.0, 13.0]
    conditions, targets = _float(*_points(3, 4))
    parameters, modes = Density(autoregressive_density.read(network), False, "mode").modes(
        conditions
    )
    for found in (modes, parameters.mean[:, :, 0], network(conditions, targets)[:, :, 0]):
        np.testing.assert_allclose(found, np.tile(expected, (3, 1)), rtol=1e-6)
    np.testing.assert_allclose(parameters.std[0, :, 0], 0.1 * (expected - 9), rtol=1e-4)


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_calling_the_network_gives_the_heads_on_the_true_dimensions(order, components):
    network = _random(order, components)
    conditions, targets = _points(9, 4)
    found = network(*_float(conditions, targets))
    latent = toys.numpy_forward(network.encoder, conditions)
    for i, d in enumerate(order):
        inputs = np.column_stack([latent, targets[:, list(order[:i])]])
        expected = toys.numpy_forward(network.heads[i], inputs)
        np.testing.assert_allclose(found[:, d], expected, rtol=1e-3, atol=1e-4)
    assert found.shape[2] == (2 if components == 1 else 9)


@pytest.mark.parametrize("order", [(0, 0, 1), (1, 2), (0, 2, 3)])
def test_an_order_that_is_no_permutation_is_refused(order):
    with pytest.raises(ValueError, match="permutation"):
        AutoregressiveNetwork(2, order=order, latent_dim=3, encoder_hidden=(), head_hidden=())


def _grid(points=240):
    """Midpoints of (-1, 1)^2 and the area of a cell."""
    axis = (np.arange(points) + 0.5) * 2 / points - 1
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2), (2 / points) ** 2


def _wide(components):
    """Two dimensions, the second first; stds from 0.2 to 0.7 so that a grid resolves them."""
    network = _random((1, 0), components, seed=3, scale=4.0)
    for head in network.heads:
        kernel, bias = networks.variables(head)[-2:]
        raw = slice(1, 2) if components == 1 else slice(6, 9)
        changed, moved = 0.5 * kernel.numpy(), 0.5 * bias.numpy()
        changed[:, raw] *= 0.2
        moved[raw] = _raw_std(0.4)
        kernel.assign(changed)
        bias.assign(moved)
    return network


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("components", [1, 3])
def test_a_squashed_density_integrates_to_one(components, conditioning):
    network = _wide(components)
    points, area = _grid()
    conditions = np.tile([[0.5, -1.0]], (len(points), 1))
    model = Density(autoregressive_density.read(network), True, conditioning)
    found = tf.reduce_sum(model.log_prob(*_float(conditions, points)), axis=1)
    assert np.exp(found).sum() * area == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("components", [1, 3])
def test_squashed_draws_have_the_moments_of_the_density(components, conditioning):
    network = _wide(components)
    points, area = _grid()
    conditions = np.tile([[0.5, -1.0]], (len(points), 1))
    log_prob, _ = _naive(network, True, conditioning, conditions, points)
    mass = np.exp(log_prob.sum(axis=1)) * area
    draws = Density(autoregressive_density.read(network), True, conditioning).sample(
        *_float(conditions[:30000]), tf.constant([3, 4])
    )
    draws = draws.numpy().astype(np.float64)
    assert (np.abs(draws) < 1).all()
    for function in (
        lambda x: x[:, 0],
        lambda x: x[:, 1],
        lambda x: x[:, 0] ** 2,
        lambda x: x[:, 1] ** 2,
        lambda x: x[:, 0] * x[:, 1],
        lambda x: x[:, 0] > 0.2,
    ):
        expected = (mass * function(points)).sum()
        values = function(draws)
        # Five standard errors, and the grid's own.
        assert values.mean() == pytest.approx(expected, abs=5 * values.std() / 173 + 3e-3)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_draws_of_a_linear_adm_have_its_mean_and_covariance(order, conditioning):
    linear = _linear(order)
    conditions = np.tile([[0.5, -1.0]], (40000, 1))
    model = Density(autoregressive_density.read(linear.network), False, conditioning)
    draws = model.sample(*_float(conditions), tf.constant([1, 2])).numpy()
    covariance = linear.covariance(STDS) if conditioning == "teacher" else np.diag(STDS**2)
    scale = np.sqrt(np.diag(covariance))
    # Standard errors: scale / 200 of a mean, and at most sqrt(2) / 200 of a covariance.
    np.testing.assert_allclose(
        (draws.mean(axis=0) - linear.means(conditions[:1])[0]) / scale, np.zeros(4), atol=0.025
    )
    found = np.cov(draws.T) / np.outer(scale, scale)
    np.testing.assert_allclose(found, covariance / np.outer(scale, scale), atol=0.035)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_draws_follow_their_seed_and_rows_differ(conditioning):
    model = Density(autoregressive_density.read(_random((2, 0, 1))), True, conditioning)
    conditions = tf.zeros([50, 2])
    first, again, other = (
        model.sample(conditions, tf.constant(seed)).numpy() for seed in ([1, 2], [1, 2], [1, 3])
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    assert len(np.unique(first)) == 150


def test_ancestral_scales_the_noise_row_by_row():
    """A linear chain's distance from its mean is linear in the scale of the noise."""
    linear = _linear((2, 0, 3, 1))
    model = Density(autoregressive_density.read(linear.network), False, "teacher")
    conditions, _ = _points(6, 4)
    means, seed = linear.means(conditions), tf.constant([5, 6])
    noise = model.noise([6], seed)
    scale = np.array([0.0, 0.5, 1.0, 2.0, 3.0, 0.1])
    _, plain = model.ancestral(*_float(conditions), noise)
    parameters, scaled = model.ancestral(*_float(conditions), noise, *_float(scale))
    expected = means + scale[:, None] * (plain - means)
    np.testing.assert_allclose(scaled, expected, atol=2e-5)
    assert np.abs(plain - means).min() > 1e-3
    # Each head saw the draws of the earlier dimensions, not their modes.
    drive = conditions @ linear.weights.T + linear.offset + scaled.numpy() @ linear.earlier.T
    np.testing.assert_allclose(parameters.mean[:, :, 0], drive, atol=2e-5)
    np.testing.assert_allclose(parameters.std[:, :, 0], np.tile(STDS, (6, 1)), rtol=1e-4)
    np.testing.assert_array_equal(model.sample(*_float(conditions), seed), plain)


@pytest.mark.parametrize("squash", [False, True])
def test_without_noise_a_draw_is_the_mode(squash):
    model = Density(autoregressive_density.read(_random((1, 2, 0))), squash, "teacher")
    conditions, _ = _float(*_points(7, 3))
    _, draws = model.ancestral(conditions, model.noise([7], tf.constant([0, 0])), 0.0)
    np.testing.assert_allclose(draws, model.mode(conditions), rtol=1e-5)


@pytest.mark.parametrize("components", [1, 3])
def test_stds_lie_between_exp_minus_five_and_one(components):
    raw = np.array([-50.0, -0.5, 0.0, 0.5, 50.0])
    outputs = np.zeros((5, 2 if components == 1 else 9), np.float32)
    outputs[:, -components:] = raw[:, None]
    found = autoregressive_density.split_outputs(tf.constant(outputs)).std
    assert found.shape == (5, components)
    inner = -5.0 + 2.5 * (np.tanh(raw[1:4]) + 1.0)
    expected = np.exp([-5.0, *inner, 0.0])  # authors' networks.py
    np.testing.assert_allclose(found, np.tile(expected[:, None], components), rtol=1e-5)


def test_columns_of_the_raw_outputs():
    single = autoregressive_density.split_outputs(tf.constant([[7.0, 0.0]]))
    assert [x.numpy().tolist() for x in single[:2]] == [[[0.0]], [[7.0]]]
    mixture = autoregressive_density.split_outputs(tf.constant([[1.0, 2.0, 3.0, 4.0, 0.0, 50.0]]))
    assert [x.numpy().tolist() for x in mixture[:2]] == [[[1.0, 2.0]], [[3.0, 4.0]]]
    np.testing.assert_allclose(mixture.std, [[np.exp(-2.5), 1.0]], rtol=1e-6)


def _mixture():
    """[2, 2, 3]: the likeliest components are 1, 0 and 2, 2."""
    logits = [[[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]], [[0.0, -1.0, 0.5], [-5.0, -6.0, -4.0]]]
    means = np.arange(12).reshape(2, 2, 3) / 10 - 0.5
    return Parameters(*_float(logits, means, 0.1 + np.arange(12).reshape(2, 2, 3) / 20))


def test_the_mode_of_a_mixture_is_the_mean_of_its_likeliest_component():
    mean, std = autoregressive_density.best_component(_mixture())
    np.testing.assert_allclose(mean, [[-0.4, -0.2], [0.3, 0.6]], atol=1e-6)
    np.testing.assert_allclose(std, [[0.15, 0.25], [0.5, 0.65]], rtol=1e-6)
    np.testing.assert_allclose(autoregressive_density.mode(_mixture(), False), mean)
    np.testing.assert_allclose(
        autoregressive_density.mode(_mixture(), True),
        np.tanh([[-0.4, -0.2], [0.3, 0.6]]),
        rtol=1e-6,
    )
    # One row of parameters, as the heads give them.
    row = Parameters(*(x[:, 0] for x in _mixture()))
    np.testing.assert_allclose(autoregressive_density.mode(row, False), [-0.4, 0.3], atol=1e-6)


def _noise(shape, components):
    return autoregressive_density.Noise.draw(shape, components, tf.constant([0, 1]))


def test_draws_of_a_mixture_take_components_by_their_share():
    count = 20000
    logits = np.log([0.5, 0.2, 0.3])
    tiled = [np.tile(x, (count, 1)) for x in (logits + 7.0, [-3.0, 0.0, 3.0], [0.01, 0.02, 0.03])]
    draws = autoregressive_density.sample(
        Parameters(*_float(*tiled)), False, _noise([count], 3), tf.ones([count])
    ).numpy()
    for share, mean, std in ((0.5, -3.0, 0.01), (0.2, 0.0, 0.02), (0.3, 3.0, 0.03)):
        near = draws[np.abs(draws - mean) < 1]
        # Standard error of a share: at most 0.5 / sqrt(20000) = 0.0035.
        assert len(near) / count == pytest.approx(share, abs=0.015)
        assert near.mean() == pytest.approx(mean, abs=5 * std / np.sqrt(len(near)))
        assert near.std() == pytest.approx(std, rel=0.06)


def test_std_scale_of_a_mixture_leaves_the_component():
    parameters = Parameters(*_float([[0.0, 0.5]] * 40, [[-5.0, 5.0]] * 40, [[0.1, 0.2]] * 40))
    plain, doubled, still = (
        autoregressive_density.sample(
            parameters, False, _noise([40], 2), tf.fill([40], scale)
        ).numpy()
        for scale in (1.0, 2.0, 0.0)
    )
    assert set(still) == {-5.0, 5.0}
    np.testing.assert_allclose(doubled - still, 2 * (plain - still), atol=1e-5)
    assert np.abs(plain - still).min() > 0


def test_orderings_are_permutations_ascending_and_descending_first():
    for last in (False, True):
        found = autoregressive_network.orderings(7, last, 6, seed=0, name="dynamics")
        assert len(found) == 6
        assert all(sorted(order) == list(range(7)) for order in found)
        assert not last or all(order[-1] == 6 for order in found)
        assert len(set(found)) == 6
    assert found[:2] == [(0, 1, 2, 3, 4, 5, 6), (5, 4, 3, 2, 1, 0, 6)]
    free = autoregressive_network.orderings(7, False, 40, 0, "dynamics")
    assert free[:2] == [(0, 1, 2, 3, 4, 5, 6), (6, 5, 4, 3, 2, 1, 0)]
    assert {order[-1] for order in free} == set(range(7))
    assert autoregressive_network.orderings(3, True, 1, 0, "x") == [(0, 1, 2)]
    assert autoregressive_network.orderings(1, True, 3, 0, "x") == [(0,)] * 3


def test_orderings_depend_on_seed_and_name_alone():
    made = autoregressive_network.orderings(12, True, 5, 0, "dynamics")
    assert autoregressive_network.orderings(12, True, 5, 0, "dynamics") == made
    assert autoregressive_network.orderings(12, True, 3, 0, "dynamics") == made[:3]
    for seed, name in ((1, "dynamics"), (0, "behavior")):
        other = autoregressive_network.orderings(12, True, 5, seed, name)
        assert other[:2] == made[:2]
        assert all(a != b for a, b in zip(other[2:], made[2:]))


def test_published_orders():
    published = autoregressive_network.PUBLISHED_HOPPER_ORDERS
    assert len(set(published)) == 6
    assert all(sorted(order) == list(range(12)) and order[-1] == 11 for order in published)
    # The six orderings of Hopper's three actions in run_planning.sh.
    assert autoregressive_network.all_orderings(3) == [
        (0, 1, 2),
        (0, 2, 1),
        (1, 0, 2),
        (1, 2, 0),
        (2, 0, 1),
        (2, 1, 0),
    ]


@pytest.mark.parametrize("components", [1, 3])
def test_a_network_comes_back_from_its_config(components):
    network = AutoregressiveNetwork(
        5,
        order=(2, 0, 1),
        latent_dim=4,
        encoder_hidden=(6,),
        head_hidden=(7, 3),
        components=components,
        seed=11,
        name="member_2",
    )
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(network))
    assert isinstance(again, AutoregressiveNetwork)
    assert (again.order, again.name) == ((2, 0, 1), "member_2")
    assert again.get_config() == network.get_config()
    assert toys.bits(networks.variables(again)) == toys.bits(networks.variables(network))
    other = AutoregressiveNetwork(
        5,
        order=(2, 0, 1),
        latent_dim=4,
        encoder_hidden=(6,),
        head_hidden=(7, 3),
        components=components,
        seed=12,
        name="member_2",
    )
    shapes = [tuple(w.shape) for w in networks.variables(other)]
    width = 2 if components == 1 else 9
    heads = [((4 + i, 7), (7,), (7, 3), (3,), (3, width), (width,)) for i in range(3)]
    assert shapes == [(5, 6), (6,), (6, 4), (4,), *(shape for head in heads for shape in head)]
    assert toys.bits(networks.variables(other)) != toys.bits(networks.variables(network))


def test_activations_are_relu_inside_and_linear_at_the_ends():
    network = AutoregressiveNetwork(
        5, order=(1, 0), latent_dim=4, encoder_hidden=(6,), head_hidden=(7, 3)
    )
    kinds = [[x.activation.__name__ for x in m.layers] for m in (network.encoder, *network.heads)]
    assert kinds == [["relu", "linear"], *[["relu", "relu", "linear"]] * 2]


def _diagonal(components=1, squash=False, seed=0):
    rng = np.random.default_rng(seed)
    network = networks.mlp(
        2,
        hidden=(9,),
        output_dim=3 * (2 if components == 1 else 3 * components),
        activation="relu",
        generator=rng,
    )
    return network, DiagonalDensity(autoregressive_density.read(network), 3, squash)


@pytest.mark.parametrize("kind", ["adm", "mlp"])
@pytest.mark.parametrize("constant", [False, True])
def test_a_member_chosen_by_a_tensor_is_that_member(kind, constant):
    if kind == "adm":
        # Descending order and a three-cycle, which differs from its inverse.
        members = [
            _random((0, 1, 2), seed=1),
            _random((2, 1, 0), seed=2),
            _random((1, 2, 0), seed=3),
        ]
    else:
        members = [_diagonal(seed=seed)[0] for seed in (1, 2, 3)]
    conditions, targets = _float(*_points(7, 3))
    seed = tf.constant([3, 4])

    def describe(weights):
        model = autoregressive_density.density(weights, 3, True, "teacher")
        parameters, modes = model.modes(conditions)
        _, draws = model.ancestral(conditions, model.noise([7], seed), tf.ones([7]))
        return (*parameters, modes, draws, model.log_prob(conditions, tf.tanh(targets)))

    @tf.function
    def chosen(index):
        weights = [autoregressive_density.read(member, constant=constant) for member in members]
        return describe(autoregressive_density.choose(weights, index))

    for index, member in enumerate(members):
        for found, expected in zip(
            chosen(tf.constant(index)), describe(autoregressive_density.read(member)), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_constant_weights_are_those_of_the_time_of_tracing():
    network, _ = _diagonal(seed=4)
    conditions = _float(_points(3, 3)[0])[0]
    traced = {
        constant: tf.function(lambda x, c=constant: networks.bind(network, constant=c)(x))
        for constant in (False, True)
    }
    before = {constant: call(conditions).numpy() for constant, call in traced.items()}
    np.testing.assert_array_equal(before[True], before[False])
    network.layers[-1].bias.assign_add(tf.ones_like(network.layers[-1].bias))
    np.testing.assert_allclose(traced[False](conditions), before[False] + 1.0, rtol=1e-5)
    np.testing.assert_array_equal(traced[True](conditions), before[True])


def test_a_diagonal_density_is_independent_gaussians():
    network, model = _diagonal()
    conditions, targets = _points(25, 3)
    outputs = toys.numpy_forward(network, conditions).reshape(25, 3, 2)
    means, stds = outputs[..., 0], np.exp(-5.0 + 2.5 * (np.tanh(outputs[..., 1]) + 1))
    found = model.log_prob(*_float(conditions, targets))
    np.testing.assert_allclose(found, _normal(targets, means, stds), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(model.mode(*_float(conditions)), means, atol=1e-5)
    noise, scale = model.noise([25], tf.constant([1, 2])), np.linspace(0, 2, 25)
    _, plain = model.ancestral(*_float(conditions), noise)
    parameters, scaled = model.ancestral(*_float(conditions), noise, *_float(scale))
    np.testing.assert_allclose(scaled, means + scale[:, None] * (plain - means), atol=1e-5)
    np.testing.assert_allclose(parameters.std[..., 0], stds, rtol=1e-4)
    many = np.tile(conditions[:1], (20000, 1))
    draws = model.sample(*_float(many), tf.constant([7, 8])).numpy()
    np.testing.assert_allclose((draws.mean(axis=0) - means[0]) / stds[0], np.zeros(3), atol=0.035)
    np.testing.assert_allclose(np.cov((draws / stds[0]).T), np.eye(3), atol=0.05)


def test_a_diagonal_squashed_mixture_by_the_loop():
    network, model = _diagonal(components=3, squash=True)
    conditions, targets = _points(25, 3)
    outputs = toys.numpy_forward(network, conditions).reshape(25, 3, 3, 3)
    logits, means, raw = outputs[..., 0, :], outputs[..., 1, :], outputs[..., 2, :]
    stds = np.exp(-5.0 + 2.5 * (np.tanh(raw) + 1))
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    gaussians = np.exp(_normal(np.arctanh(targets)[..., None], means, stds))
    expected = np.log((shares * gaussians).sum(axis=-1) / (1 - targets**2))
    found = model.log_prob(*_float(conditions, targets))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-3)
    best = np.take_along_axis(means, logits.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(model.mode(*_float(conditions)), np.tanh(best), atol=1e-4)
    noise = model.noise([25], tf.constant([1, 2]))
    _, draws = model.ancestral(*_float(conditions), noise, tf.fill([25], 100.0))
    assert 0.9 < np.abs(draws).max() <= 1


def test_either_kind_of_network_becomes_its_density():
    arguments = {
        "input_dim": 5,
        "order": (2, 0, 1),
        "latent_dim": 4,
        "encoder_hidden": (6,),
        "head_hidden": (7,),
        "mlp_hidden": (9, 8),
        "components": 3,
    }
    adm, mlp = (
        autoregressive_network.make_network(
            kind, **arguments, generator=np.random.default_rng(0), name="member"
        )
        for kind in ("adm", "mlp")
    )
    assert (adm.order, adm.name, mlp.name) == ((2, 0, 1), "member", "member")
    assert [tuple(w.shape) for w in networks.variables(mlp)] == [
        (5, 9),
        (9,),
        (9, 8),
        (8,),
        (8, 27),
        (27,),
    ]
    # Encoder 5-6-4, then the first head 4-7-9.
    widths = [tuple(w.shape) for w in networks.variables(adm) if w.shape.rank == 2]
    assert widths[:4] == [(5, 6), (6, 4), (4, 7), (7, 9)]
    other = autoregressive_network.make_network(
        "adm", **arguments, generator=np.random.default_rng(1), name="member"
    )
    assert toys.bits(networks.variables(other)) != toys.bits(networks.variables(adm))
    found = [
        autoregressive_density.density(autoregressive_density.read(n), 3, True, "teacher")
        for n in (adm, mlp)
    ]
    assert [type(x) for x in found] == [Density, DiagonalDensity]
    assert [x.conditioning for x in found] == ["teacher", "mode"]
    assert [x.order for x in found] == [(2, 0, 1), (0, 1, 2)]
    assert (
        autoregressive_density.density(
            autoregressive_density.read(adm), 3, False, "mode"
        ).conditioning
        == "mode"
    )
    assert [x.squash for x in found] == [True, True]
    assert not autoregressive_density.density(
        autoregressive_density.read(mlp), 3, False, "mode"
    ).squash
    assert found[0].modes(tf.zeros([4, 5]))[0].std.shape == (4, 3, 3)
    assert found[1].modes(tf.zeros([4, 5]))[0].std.shape == (4, 3, 3)


def test_targets_are_kept_off_the_ends():
    actions = np.array([-1.0, -0.9995, -0.5, 0.999, 1.0])
    found = autoregressive_density.clip_targets(actions)
    np.testing.assert_allclose(found, [-0.999, -0.999, -0.5, 0.999, 0.999], rtol=1e-6)
    assert found.dtype == np.float32


# Fitting.

CONFIG = ModelConfig(
    batch_size=128, learning_rate=0.02, precision="float32", weight_decay=0.0, holdout_share=0.1
)
SMALL = dataclasses.replace(CONFIG, batch_size=8)


def _correlated(count=3000, seed=0):
    """x_0 ~ N(0, 0.7^2), x_1 = x_0 + 0.2 eps: correlation 0.96."""
    rng = np.random.default_rng(seed)
    first = 0.7 * rng.normal(size=count)
    second = first + 0.2 * rng.normal(size=count)
    return np.ones((count, 1), np.float32), np.stack([first, second], 1).astype(np.float32)


def _fit(members, stage, config=CONFIG, steps=1000, data=None, row_weights=None, split=None):
    inputs, targets = _correlated() if data is None else data
    count = len(inputs)
    split = split or Split(np.arange(count // 2), np.arange(count // 2, count))
    return training.fit_densities(
        members,
        squash=False,
        gather=lambda rows: (inputs[rows], targets[rows]),
        split=split,
        names=[f"x{i}" for i in range(targets.shape[1])],
        config=config,
        steps=steps,
        seed=0,
        stage=stage,
        row_weights=row_weights,
    )


def _adm(order=(0, 1), seed=0, hidden=()):
    return AutoregressiveNetwork(
        1, order=order, latent_dim=2, encoder_hidden=(), head_hidden=hidden, components=1, seed=seed
    )


def test_a_correlated_distribution_needs_the_true_earlier_dimensions(tmp_path):
    record = toys.record(tmp_path / "run")
    reports = {
        conditioning: _fit(
            [_adm((1, 0), hidden=(16,))],
            record.stage(conditioning),
            dataclasses.replace(CONFIG, conditioning=conditioning),
        )
        for conditioning in CONDITIONINGS
    }
    mlp = networks.mlp(
        1, hidden=(16,), output_dim=4, activation="relu", generator=np.random.default_rng(0)
    )
    reports["diagonal"] = _fit([mlp], record.stage("diagonal"))
    # Entropies in nats: of the pair, and the sum of those of its two dimensions.
    unit = 0.5 * np.log(2 * np.pi * np.e)
    joint = 2 * unit + np.log(0.7 * 0.2)
    apart = 2 * unit + np.log(0.7) + 0.5 * np.log(0.7**2 + 0.2**2)
    # 1500 held-out rows: standard error sqrt(2 / 2 / 1500) = 0.026.
    assert reports["teacher"]["nll"] == pytest.approx(joint, abs=0.1)
    assert reports["mode"]["nll"] == pytest.approx(apart, abs=0.1)
    assert reports["diagonal"]["nll"] == pytest.approx(apart, abs=0.1)
    # x_1 came first, alone; x_0 given x_1 has the rest.
    alone = unit + 0.5 * np.log(0.7**2 + 0.2**2)
    assert reports["teacher"]["nll/x1"] == pytest.approx(alone, abs=0.08)
    assert reports["teacher"]["nll/x0"] == pytest.approx(joint - alone, abs=0.08)


def test_the_report_is_the_mean_over_members_of_held_out_rows(tmp_path):
    members = [_adm(seed=0), _adm((1, 0), seed=1)]
    inputs, targets = _correlated(40)
    split, record = Split(np.arange(0, 40, 2), np.arange(1, 40, 2)), toys.record(tmp_path / "run")
    report = _fit(
        members,
        record.stage("x"),
        SMALL,
        steps=3,
        data=(inputs, targets),
        split=split,
    )
    expected = -np.mean(
        [_naive(m, False, "teacher", inputs[1::2], targets[1::2])[0].mean(axis=0) for m in members],
        axis=0,
    )
    assert report.pop("judged") == "held_out"
    assert report == pytest.approx(
        {"nll": expected.sum(), "nll/x0": expected[0], "nll/x1": expected[1]}, rel=1e-4
    )
    header, look = (record.folder / "metrics" / "x.csv").read_text().splitlines()
    logged = dict(zip(header.split(","), map(float, look.split(","))))
    assert logged["held_out"] == pytest.approx(expected.sum(), rel=1e-4)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_first_gradient_is_of_the_likelihood_and_the_squared_kernels(
    tmp_path, monkeypatch, weight_decay
):
    members = [_adm(seed=0), _adm((1, 0), seed=1)]
    inputs, targets = np.zeros((1, 1), np.float32), np.array([[0.4, -0.3]], np.float32)
    variables = networks.variables(*members)
    for variable in variables:  # biases too, which are not decayed
        variable.assign_add(tf.fill(variable.shape, 0.2))
    with tf.GradientTape() as tape:
        loss = 0.0
        for member in members:  # the batch repeats the only row
            model = Density(autoregressive_density.read(member), False, "teacher")
            loss -= tf.reduce_sum(model.log_prob(*_float(inputs, targets)))
            for variable in networks.variables(member):
                if variable.shape.rank == 2:
                    loss += weight_decay * tf.reduce_sum(tf.square(variable))
    expected = tape.gradient(loss, variables)

    made, fit = [], training.fitting.Fit
    monkeypatch.setattr(
        training.fitting, "Fit", lambda *a, **k: made.append(fit(*a, **k)) or made[-1]
    )
    config = dataclasses.replace(SMALL, weight_decay=weight_decay)
    stage, split = toys.record(tmp_path / "run").stage("x"), Split(np.arange(1), np.arange(0))
    _fit(members, stage, config, steps=1, data=(inputs, targets), split=split)
    # Adam's first moment after one step is 0.1 of the gradient.
    for moment, gradient in zip(made[0].adam.moments[1:], expected):
        np.testing.assert_allclose(moment, 0.1 * gradient, rtol=1e-3, atol=1e-6)


def test_a_killed_fit_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "STEPS_PER_LOOK", 5)
    data = _correlated(60)

    def start(record):
        members = [_adm(seed=0), _adm((1, 0), seed=1)]
        report = _fit(members, record.stage("x"), SMALL, steps=20, data=data)
        return report, toys.bits(networks.variables(*members))

    whole, broken = toys.record(tmp_path / "whole"), toys.record(tmp_path / "broken")
    expected = start(whole)
    stage = type(broken.stage("x"))
    with monkeypatch.context() as patch, pytest.raises(toys.Killed):
        patch.setattr(stage, "save", toys.dying(stage.save, 3))
        start(broken)
    assert start(broken) == expected
    tables = [(r.folder / "metrics" / "x.csv").read_text() for r in (whole, broken)]
    assert tables[0] == tables[1]
    assert [row.split(",")[0] for row in tables[0].splitlines()[1:]] == ["5", "10", "15", "20"]


class _Spy:
    """In place of fitting.Fit: remembers rows and rates; the only weight counts the steps."""

    def __init__(self):
        self.rows, self.rates = [], []
        self.weight = tf.Variable(0.0)
        self.adam = types.SimpleNamespace(moments=[], is_shared=False)

    def run(self, data, rows, rates, batch_size):
        del data
        self.rows.append(rows.numpy())
        self.rates.append(rates.numpy())
        self.weight.assign_add(float(len(rows)))
        return tf.zeros([rows.shape[1]])

    def check_finite(self, name, losses, done, rate):
        assert name == "x"
        assert np.isfinite(losses).all() and done.endswith(" steps") and rate == "learning_rate"


def _run(spy, stage, steps, looks=None, patience=0, share=0.1, members=2, chances=None):
    """Fits with batches of 6 of 50 rows at a rate of 0.01; `looks` are the held-out values."""
    values = iter(looks or [1.0] * 1000)
    config = ModelConfig(
        batch_size=6, learning_rate=0.01, final_rate_share=share, patience=patience
    )
    return training.fit(
        spy,
        feed=lambda chunk: ((), tf.constant(chunk)),
        weights=[spy.weight],
        schedule=training.drawn_schedule(
            config,
            steps=steps,
            count=50,
            members=members,
            seed=0,
            name=stage.name,
            chances=chances,
        ),
        look=lambda: {"held_out": next(values)},
        patience=patience,
        stage=stage,
    )


def test_rates_fall_along_one_cosine_and_rows_are_drawn_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "STEPS_PER_LOOK", 10)
    monkeypatch.setattr(training, "STEPS_PER_CALL", 4)
    spy = _Spy()
    assert _run(spy, toys.record(tmp_path / "run").stage("x"), 25) == 25
    assert [len(x) for x in spy.rows] == [4, 4, 2, 4, 4, 2, 4, 1]
    rates = 0.01 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * np.arange(25) / 25)))
    np.testing.assert_allclose(np.concatenate(spy.rates), rates, rtol=1e-5)
    rows = np.concatenate(spy.rows)
    assert rows.shape == (25, 2, 6)
    assert rows.dtype == np.int32
    assert (rows.min(), rows.max()) == (0, 49)
    # No member, step or look repeats another.
    assert len({tuple(batch) for step in rows for batch in step}) == 50


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_killed_fit_goes_on_with_the_rows_and_rates_of_an_unbroken_one(
    tmp_path, monkeypatch, calls
):
    monkeypatch.setattr(training, "STEPS_PER_LOOK", 10)
    monkeypatch.setattr(training, "STEPS_PER_CALL", 4)
    whole, broken, rest = _Spy(), _Spy(), _Spy()
    _run(whole, toys.record(tmp_path / "whole").stage("x"), 25)
    record = toys.record(tmp_path / "broken")
    stage = type(record.stage("x"))
    with monkeypatch.context() as patch, pytest.raises(toys.Killed):
        patch.setattr(stage, "save", toys.dying(stage.save, calls))
        _run(broken, record.stage("x"), 25)
    saved = 10 * (calls - 1)
    assert _run(rest, record.stage("x"), 25) == 25
    assert float(rest.weight) == 25
    for name in ("rows", "rates"):
        expected, found = (np.concatenate(getattr(spy, name)) for spy in (whole, rest))
        np.testing.assert_array_equal(found, expected[saved:])
    # A fit that is complete is not done again.
    again = _Spy()
    assert _run(again, record.stage("x"), 25) == 25
    assert (again.rows, float(again.weight)) == ([], 25.0)


def test_row_weights_concentrate_the_draws(tmp_path):
    chances = np.zeros(50)
    chances[[0, 3, 49]] = 1.0, 5.0, 4.0
    spy = _Spy()
    _run(spy, toys.record(tmp_path / "run").stage("x"), 1000, members=1, chances=chances)
    counts = np.bincount(np.concatenate(spy.rows).ravel(), minlength=50) / 6000
    # Standard error sqrt(0.25 / 6000) = 0.0065.
    np.testing.assert_allclose(counts[[0, 3, 49]], [0.1, 0.5, 0.4], atol=0.03)
    assert counts[[0, 3, 49]].sum() == 1.0


def test_row_weights_are_those_of_the_training_rows(tmp_path):
    """Rows at 0.5 weigh three times those at -0.5; what is held out weighs a lot and counts not."""
    count = 400
    targets = np.where(np.arange(count) % 4 < 2, 0.5, -0.5).astype(np.float32)[:, None]
    row_weights = np.where(targets[:, 0] > 0, 3.0, 1.0)
    held_out = np.arange(count) % 4 == 3
    row_weights[held_out] = 100.0
    split = Split(np.flatnonzero(~held_out), np.flatnonzero(held_out))
    member = _adm((0,))
    data = (np.zeros((count, 1), np.float32), targets)
    stage = toys.record(tmp_path / "run").stage("x")
    _fit([member], stage, data=data, row_weights=row_weights, split=split)
    # Per four rows: two of weight 3 at 0.5 and one of weight 1 at -0.5.
    mode = Density(autoregressive_density.read(member), False, "mode").mode(tf.zeros([1, 1]))
    assert float(mode[0, 0]) == pytest.approx((6 * 0.5 - 0.5) / 7, abs=0.06)


@pytest.mark.parametrize(
    ("looks", "patience", "best", "end"),
    [
        ([5.0, 3.0, 4.0, 3.5, 9.0, 9.0], 2, 20, 40),
        ([5.0, 3.0, 4.0, 2.5, 9.0, 9.0], 2, 40, 60),
        ([5.0, 3.0, 3.0, 3.0, 3.0, 1.0], 3, 20, 50),
        ([5.0, 3.0, 4.0, 2.5, 9.0, 1.0], 0, 60, 60),
        ([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 1, 60, 60),
    ],
)
def test_patience_keeps_the_best_look(tmp_path, monkeypatch, looks, patience, best, end):
    monkeypatch.setattr(training, "STEPS_PER_LOOK", 10)
    spy, record = _Spy(), toys.record(tmp_path / "run")
    assert _run(spy, record.stage("x"), 60, looks, patience) == best
    assert sum(len(x) for x in spy.rows) == end
    assert float(spy.weight) == best  # it counts the steps
    table = (record.folder / "metrics" / "x.csv").read_text().splitlines()
    assert [float(row.split(",")[-1]) for row in table[1:]] == looks[: end // 10]


def test_patience_goes_on_counting_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "STEPS_PER_LOOK", 10)
    looks, record = [5.0, 3.0, 4.0, 3.5, 9.0, 9.0], toys.record(tmp_path / "run")
    stage = type(record.stage("x"))
    with monkeypatch.context() as patch, pytest.raises(toys.Killed):
        patch.setattr(stage, "save", toys.dying(stage.save, 4))
        _run(_Spy(), record.stage("x"), 60, looks, patience=2)
    spy = _Spy()
    assert _run(spy, record.stage("x"), 60, looks[3:], patience=2) == 20
    assert sum(len(x) for x in spy.rows) == 10
    assert float(spy.weight) == 20
