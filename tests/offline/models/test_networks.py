import itertools

import numpy as np
import pytest
import tensorflow as tf

from offline_tf.models import disagreement, fitting, minibatches, networks
from offline_tf.numerics import seeds, standardize


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def mlp(activation="tanh", hidden=(16, 8), **options):
    return networks.mlp(
        5,
        hidden=hidden,
        output_dim=3,
        activation=activation,
        generator=np.random.default_rng(1),
        **options,
    )


# --- networks ---


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (7,), (16, 8)])
def test_bind_equals_keras_and_numpy(activation, hidden):
    model = mlp(activation, hidden)
    x = normal(20, 5)
    bound = networks.bind(model)(x).numpy()
    np.testing.assert_allclose(bound, model(x).numpy(), rtol=1e-5, atol=1e-6)
    layer = x.astype(np.float64)
    weights = networks.dense_weights(model)
    assert len(weights) == len(hidden) + 1
    for index, (kernel, bias) in enumerate(weights):
        layer = layer @ kernel.numpy() + bias.numpy()
        if index < len(hidden):
            layer = np.tanh(layer) if activation == "tanh" else np.maximum(layer, 0)
    np.testing.assert_allclose(bound, layer, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_bind_reads_the_weights_once(dtype):
    model = mlp()
    x = normal(4, 5)
    bound = networks.bind(model, dtype)
    before = bound(x).numpy()
    for weight in networks.variables(model):
        weight.assign_add(tf.ones_like(weight))
    np.testing.assert_array_equal(bound(x), before)
    assert (networks.bind(model, dtype)(x).numpy() != before).all()


def test_gradients_flow_through_bind():
    model = mlp()
    weights = networks.variables(model)
    x = tf.constant(normal(4, 5))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(networks.bind(model)(x))
    gradients = tape.gradient(loss, weights)
    # The output's bias is added to each of the 4 rows.
    np.testing.assert_allclose(gradients[-1], [4, 4, 4], rtol=1e-6)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)


def test_bfloat16_is_close_to_float32():
    model = mlp("relu", (64, 64))
    x = normal(50, 5)
    exact = networks.bind(model)(x)
    rough = networks.bind(model, tf.bfloat16)(x)
    assert rough.dtype == tf.float32
    # bfloat16 keeps 8 bits: 2^-8 per rounding, a few roundings deep.
    error = np.abs(rough - exact).max() / np.abs(exact).max()
    assert 0 < error < 8 * 2**-8


@pytest.mark.parametrize(("fan_in", "scale"), [(4, 1.0), (100, 1.0), (100, 0.01)])
def test_initial_values_are_uniform_in_the_fan_in_bound(fan_in, scale):
    values = networks.UniformFanIn(fan_in, scale, seed=3)((fan_in, 5000 // fan_in)).numpy()
    bound = scale / np.sqrt(fan_in)
    assert 0.99 * bound < np.abs(values).max() <= bound * (1 + 1e-6)
    np.testing.assert_allclose(values.std(), bound / np.sqrt(3), rtol=0.05)
    assert abs(values.mean()) < 0.05 * bound


def test_mlp_starts_within_the_bounds_and_scales_its_output_layer():
    full, small = mlp(), mlp(output_scale=1e-2)
    widths = [5, 16, 8]
    pairs = zip(networks.dense_weights(full), networks.dense_weights(small), strict=True)
    for index, (width, (one, other)) in enumerate(zip(widths, pairs, strict=True)):
        for array in one:
            assert np.abs(array).max() <= 1 / np.sqrt(width)
            assert np.abs(array).max() > 0
        for first, second in zip(one, other):
            factor = 1e-2 if index == 2 else 1.0
            np.testing.assert_allclose(second, factor * first.numpy(), rtol=1e-6)


def test_mlp_repeats_by_generator():
    x = normal(3, 5)
    np.testing.assert_array_equal(mlp()(x), mlp()(x))
    other = networks.mlp(
        5, hidden=(16, 8), output_dim=3, activation="tanh", generator=np.random.default_rng(2)
    )
    assert (other(x) != mlp()(x)).numpy().all()


def test_product_dtype():
    assert networks.product_dtype("float32") == tf.float32
    assert networks.product_dtype("bfloat16") == tf.bfloat16


def test_auto_is_what_the_cpu_has_and_float32_where_xla_computes(monkeypatch):
    monkeypatch.setattr(networks.pathlib.Path, "read_text", lambda path: "flags : avx2 avx512f")
    assert networks.product_dtype("auto") == tf.float32
    monkeypatch.setattr(networks.pathlib.Path, "read_text", lambda path: "flags : amx_bf16")
    assert networks.product_dtype("auto") == tf.bfloat16
    monkeypatch.setattr(networks.compilation, "compiler", lambda: "xla")
    assert networks.product_dtype("auto") == tf.float32
    assert networks.product_dtype("bfloat16") == tf.bfloat16


def test_of_members_takes_each_row_from_its_own_member():
    outputs = np.arange(3 * 4 * 2, dtype=np.float32).reshape(3, 4, 2)
    member = np.array([2, 0, 2, 1], np.int32)
    expected = np.stack([outputs[m, row] for row, m in enumerate(member)])
    np.testing.assert_array_equal(networks.of_members(outputs, tf.constant(member)), expected)


# --- fitting ---


def naive_adam(weights, gradients, rates, decay):
    """Kingma & Ba 2015, algorithm 1; weight decay as an L2 term of the loss."""
    w = weights.astype(np.float64)
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, (gradient, rate) in enumerate(zip(gradients, rates), start=1):
        g = gradient + decay * w
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        w = w - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adam_equals_the_naive_one(decay):
    start = [normal(3, 2), normal(4, seed=1)]
    variables = [tf.Variable(x) for x in start]
    adam = fitting.Adam(variables, weight_decay=decay)
    gradients = [[normal(*x.shape, seed=10 + t) for x in start] for t in range(5)]
    rates = [0.1, 0.05, 0.1, 0.2, 0.01]
    for step, rate in zip(gradients, rates):
        adam.apply([tf.constant(g) for g in step], tf.constant(rate))
    for index, variable in enumerate(variables):
        own = [step[index] for step in gradients]
        expected = naive_adam(start[index], own, rates, decay)
        np.testing.assert_allclose(variable, expected, rtol=1e-4, atol=1e-5)
    assert int(adam.steps) == 5


def test_weight_decay_is_l2_on_the_gradient():
    # At g = 0 the gradient is decay * w, whose first Adam step is rate * sign(w), whatever decay is.
    variable = tf.Variable([2.0, -3.0])
    fitting.Adam([variable], weight_decay=1e-3).apply([tf.zeros(2)], tf.constant(0.1))
    np.testing.assert_allclose(variable, [1.9, -2.9], rtol=1e-5)


def squared_errors(weights, biases):
    def loss(batches):
        return [
            tf.reduce_mean(tf.square(x @ w + b - y))
            for w, b, (x, y) in zip(weights, biases, batches, strict=True)
        ]

    return loss


def test_fit_finds_a_linear_map():
    x = normal(256, 3)
    matrix, offset = normal(3, 2, seed=1), np.float32([0.5, -1.0])
    w, b = tf.Variable(tf.zeros([3, 2])), tf.Variable(tf.zeros([2]))
    fit = fitting.Fit([w, b], loss=squared_errors([w], [b]))
    data = (tf.constant(x), tf.constant(x @ matrix + offset))
    losses = []
    for epoch in range(60):
        rows = minibatches.shuffled_batches([np.random.default_rng(epoch)], 256, 32)
        losses.append(float(fit.run(data, tf.constant(rows), tf.fill([len(rows)], 0.03))[0]))
    np.testing.assert_allclose(w, matrix, atol=1e-3)
    np.testing.assert_allclose(b, offset, atol=1e-3)
    assert losses[-1] < 1e-5 < 0.1 < losses[0]


def test_members_see_their_own_minibatches():
    # Rate 0: the loss of member m is its mean squared y over exactly the rows given to it.
    y = np.arange(8, dtype=np.float32)[:, None]
    w = [tf.Variable(tf.zeros([1, 1])) for _ in range(2)]
    b = [tf.Variable(tf.zeros([1])) for _ in range(2)]
    fit = fitting.Fit([*w, *b], loss=squared_errors(w, b))
    rows = np.int32([[[0, 1], [2, 3]], [[4, 5], [6, 7]]])  # [steps, members, batch]
    data = (tf.zeros([8, 1]), tf.constant(y))
    losses = fit.run(data, tf.constant(rows), tf.zeros([2]))
    np.testing.assert_allclose(losses, [(0 + 1 + 16 + 25) / 4, (4 + 9 + 36 + 49) / 4])
    fit.run(data, tf.constant(rows[:1]), tf.fill([1], 0.1))
    assert all(float(tf.reduce_sum(tf.abs(bias))) > 0 for bias in b)


def test_members_do_not_move_each_other():
    x, y = normal(32, 3), normal(32, 2, seed=1)

    def fitted(members):
        w = [tf.Variable(normal(3, 2, seed=m)) for m in members]
        b = [tf.Variable(tf.zeros([2])) for _ in members]
        fit = fitting.Fit([*w, *b], loss=squared_errors(w, b))
        streams = [np.random.default_rng(m) for m in members]
        rows = minibatches.shuffled_batches(streams, 32, 8)
        fit.run((tf.constant(x), tf.constant(y)), tf.constant(rows), tf.fill([4], 0.01))
        return [weight.numpy() for weight in w]

    together, alone = fitted([5, 6]), fitted([6])
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-6)


@pytest.mark.parametrize(("count", "batch"), [(12, 4), (13, 4), (15, 4), (3, 8), (1, 1)])
def test_batches_hold_each_row_once(count, batch):
    streams = [np.random.default_rng(m) for m in range(3)]
    rows = minibatches.shuffled_batches(streams, count, batch)
    size = min(batch, count)
    assert rows.shape == (count // size, 3, size) and rows.dtype == np.int32
    for member in range(3):
        seen = rows[:, member].ravel()
        assert len(set(seen)) == len(seen) == count - count % size  # the remainder is dropped
        assert seen.min() >= 0 and seen.max() < count
    if count > 4:
        assert (rows[:, 0] != rows[:, 1]).any()


def test_cosine_falls_from_peak_to_share():
    rates = fitting.cosine(0.2, 0.1, np.array([0, 25, 50, 75, 100, 130]), 100)
    # (1 + cos(pi / 4)) / 2 = 0.853553
    expected = 0.2 * (0.1 + 0.9 * np.array([1, 0.853553, 0.5, 0.146447, 0, 0]))
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    constant = fitting.cosine(0.2, 1.0, np.arange(5), 4)
    np.testing.assert_allclose(constant, 0.2, rtol=1e-6)
    assert constant.dtype == np.float32


# --- standardize ---


@pytest.mark.parametrize("scale", ["std", "mad"])
def test_statistics_equal_the_naive_ones(scale):
    values = normal(50, 3) * np.float32([1, 10, 0.1]) + np.float32([0, 5, -100])
    found = standardize.statistics(values, scale)
    for d in range(3):
        column = [float(x) for x in values[:, d]]
        mean = sum(column) / 50
        if scale == "std":
            spread = (sum((x - mean) ** 2 for x in column) / 50) ** 0.5
        else:
            spread = sum(abs(x - mean) for x in column) / 50
        assert found.shift[d] == pytest.approx(mean, rel=1e-6)
        assert found.scale[d] == pytest.approx(spread, rel=1e-5)


def test_normalize_gives_mean_0_and_spread_1():
    values = normal(500, 3) * 7 + 3
    normalized = standardize.statistics(values).normalize(values)
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.std(axis=0), 1, rtol=1e-5)


def test_a_constant_dimension_stays_finite():
    values = np.full((10, 1), 4.0, np.float32)
    np.testing.assert_array_equal(standardize.statistics(values).normalize(values), 0)


# --- seeds ---


def test_streams_repeat():
    first, second = (seeds.generator(3, "a", 1).normal(size=4) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(seeds.stateless(3, "a", 1), seeds.stateless(3, "a", 1))


def test_streams_differ_by_seed_name_and_index():
    keys = [*itertools.product((0, 1), ("a", "b", "a/0"), (0, 1, 10)), (0, "a/1", 0)]
    draws = {float(seeds.generator(*key).normal()) for key in keys}
    assert len(draws) == len(keys)
    stateless = {tuple(seeds.stateless(*key).numpy()) for key in keys}
    assert len(stateless) == len(keys)
    assert seeds.stateless(0, "a").shape == (2,) and seeds.stateless(0, "a").dtype == tf.int32


def test_a_stream_does_not_depend_on_what_ran_before():
    expected = seeds.generator(0, "a").normal(size=3)
    seeds.generator(0, "b").normal(size=100)
    np.testing.assert_array_equal(seeds.generator(0, "a").normal(size=3), expected)


def test_neighbouring_streams_are_not_correlated():
    first, second = (seeds.generator(0, "a", i).normal(size=2000) for i in (0, 1))
    # The correlation of 2,000 independent pairs has a standard deviation of 0.022.
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


# --- disagreement ---


def naive_disagreement(predictions):
    members, batch, _ = predictions.shape
    out = np.zeros(batch)
    for i, j, row in itertools.product(range(members), range(members), range(batch)):
        distance = np.sqrt(sum((predictions[i, row] - predictions[j, row]) ** 2))
        out[row] = max(out[row], distance)
    return out


def test_disagreement_by_hand():
    # Rows: a 3-4-5 triangle, equal predictions, one dimension only.
    predictions = np.float32([[[0, 0], [1, 1], [2, 0]], [[3, 4], [1, 1], [-5, 0]]])
    found = disagreement.largest_pairwise_distance(predictions)
    np.testing.assert_allclose(found, [5, 0, 7])


@pytest.mark.parametrize("members", [2, 3, 5])
def test_disagreement_equals_the_naive_one(members):
    predictions = normal(members, 20, 4)
    found = disagreement.largest_pairwise_distance(predictions)
    np.testing.assert_allclose(found, naive_disagreement(predictions), rtol=1e-5)


def test_one_member_never_disagrees():
    found = disagreement.largest_pairwise_distance(normal(1, 6, 4))
    np.testing.assert_array_equal(found, np.zeros(6))


def test_order_and_shift_do_not_matter():
    predictions = normal(4, 10, 3)
    expected = disagreement.largest_pairwise_distance(predictions)
    for order in itertools.permutations(range(4)):
        found = disagreement.largest_pairwise_distance(predictions[list(order)])
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(
        disagreement.largest_pairwise_distance(predictions + np.float32(3)), expected, rtol=1e-5
    )


def test_another_member_never_lowers_the_disagreement():
    predictions = normal(5, 30, 3)
    fewer = disagreement.largest_pairwise_distance(predictions[:4])
    assert (disagreement.largest_pairwise_distance(predictions) >= fewer).numpy().all()


def test_disagreement_refuses_other_ranks():
    with pytest.raises(ValueError, match="rank"):
        disagreement.largest_pairwise_distance(normal(4, 3))
