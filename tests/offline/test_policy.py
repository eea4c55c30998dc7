import io

import numpy as np
import pytest
import tensorflow as tf

from offline_tf import behavior_cloning, policy, tasks
from offline_tf.run_record import RunRecord
from offline_tf.types import UserError


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def gaussian(hidden=(8, 6), seed=0, state_dim=5, action_dim=2):
    made = policy.GaussianPolicy(
        state_dim,
        action_dim,
        hidden,
        -0.5,
        np.linspace(0.1, 2.0, state_dim),
        np.random.default_rng(seed),
    )
    # The output layer starts a hundred times smaller; differences would drown.
    for weight in made.weights[-3:-1]:
        weight.assign(100 * weight)
    made.log_std.assign(np.linspace(-1.0, 0.5, action_dim))
    return made


def arrays(actor):
    return [actor.input_scale, actor.log_std, *(x for layer in actor.layers for x in layer)]


def assert_same_bits(first, second):
    for one, two in zip(arrays(first), arrays(second), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("hidden", [(), (8,), (8, 6)])
def test_numpy_and_tensorflow_agree(hidden):
    made = gaussian(hidden)
    actor = made.numpy()
    x, actions = normal(30, 5), normal(30, 2, seed=1)
    np.testing.assert_allclose(actor.mean(x), made.mean(x), rtol=1e-4, atol=1e-5)
    expected = made.distribution(x).log_prob(actions)
    np.testing.assert_allclose(actor.log_prob(x, actions), expected, rtol=1e-4, atol=1e-4)


def test_mean_is_a_tanh_network_of_scaled_observations():
    actor = gaussian((3,)).numpy()
    x = normal(4, 5)
    (k0, b0), (k1, b1) = actor.layers
    for row, found in zip(x, actor.mean(x)):
        hidden = [np.tanh(sum(row * actor.input_scale * k0[:, j]) + b0[j]) for j in range(3)]
        expected = [sum(h * k for h, k in zip(hidden, k1[:, a])) + b1[a] for a in range(2)]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_log_prob_by_hand():
    # Mean 0, sigma (1, 2), action (1, 2): -1/2 - 1/2 - ln 2 - ln(2 pi).
    layers = ((np.zeros((1, 2), np.float32), np.zeros(2, np.float32)),)
    actor = policy.NumpyPolicy(np.ones(1, np.float32), layers, np.log(np.float32([1, 2])))
    found = actor.log_prob(np.zeros((1, 1), np.float32), np.float32([[1, 2]]))
    np.testing.assert_allclose(found, [-1 - np.log(2) - np.log(2 * np.pi)], rtol=1e-6)


def test_samples_have_the_policys_mean_and_spread():
    actor = gaussian().numpy()
    x = np.repeat(normal(1, 5), 4000, axis=0)
    samples = actor.sample(x, np.random.default_rng(0))
    std = np.exp(actor.log_std)
    # Five standard errors of a mean and of a standard deviation over 4,000 draws.
    assert (np.abs(samples.mean(axis=0) - actor.mean(x[:1])[0]) < 5 * std / np.sqrt(4000)).all()
    np.testing.assert_allclose(samples.std(axis=0), std, rtol=5 / np.sqrt(8000))


def test_new_policy_is_nearly_zero():
    # Output layer scaled by 1e-2 (gaussian_mlp.py), hidden units within +-1, fan-in 6.
    made = policy.GaussianPolicy(5, 2, (8, 6), -0.5, generator=np.random.default_rng(0))
    assert np.abs(made.mean(normal(50, 5))).max() < 0.01 / np.sqrt(6) * (6 + 1)
    np.testing.assert_array_equal(made.log_std, np.float32([-0.5, -0.5]))


def test_save_and_load_keep_bits(tmp_path):
    actor, path = gaussian().numpy(), tmp_path / "deep" / "policy.npz"
    about = {"env": "hopper", "mean_return": 1234.5, "nested": [1, None]}
    policy.save(path, actor, about)
    loaded, read = policy.load(path)
    assert_same_bits(loaded, actor)
    assert read == about
    assert [p.name for p in path.parent.iterdir()] == ["policy.npz"]


def garbage(kind):
    if kind == "truncated":
        return policy.shipped("hopper").read_bytes()[:5000]
    if kind == "npy":
        file = io.BytesIO()
        np.save(file, np.zeros(3))
        return file.getvalue()
    return {"text": b"garbage", "empty": b""}[kind]


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "npy"])
def test_loading_garbage_is_the_users_error(tmp_path, kind):
    path = tmp_path / "policy.npz"
    path.write_bytes(garbage(kind))
    with pytest.raises(UserError, match="is no policy weight file"):
        policy.load(path)


def test_loading_other_arrays_is_the_users_error(tmp_path):
    path = tmp_path / "policy.npz"
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(UserError, match="is no policy weight file"):
        policy.load(path)
    with pytest.raises(UserError, match="found none"):
        policy.load(tmp_path / "none.npz")


def test_assign_takes_over_another_policy():
    first, second = gaussian(seed=0), gaussian(seed=1)
    second.log_std.assign([0.25, -3.0])
    x = normal(6, 5)
    assert (first.mean(x) != second.mean(x)).numpy().all()
    first.assign(second.numpy())
    np.testing.assert_array_equal(first.mean(x), second.mean(x))
    assert_same_bits(first.numpy(), second.numpy())


def test_assign_refuses_another_shape():
    with pytest.raises(ValueError):
        gaussian((8, 6)).assign(gaussian((8,)).numpy())


def test_numpy_is_a_copy():
    made = gaussian()
    before = [x.copy() for x in arrays(made.numpy())]
    actor = made.numpy()
    for weight in made.weights:
        weight.assign_add(tf.ones_like(weight))
    for one, two in zip(arrays(actor), before, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("robot", tasks.names())
def test_velocity_scale_touches_velocities_only(robot):
    task = tasks.get(robot)
    scale = policy.velocity_scale(task, 0.02)
    for name, value in zip(task.observation_names, scale, strict=True):
        assert value == (np.float32(0.02) if "velocity" in name else 1)


@pytest.mark.parametrize("robot", tasks.names())
def test_shipped_policies_fit_their_robot(robot):
    task = tasks.get(robot)
    actor, about = policy.load(policy.shipped(robot))
    actions = actor.mean(np.zeros((2, task.state_dim), np.float32))
    assert actions.shape == (2, task.action_dim) and np.isfinite(actions).all()
    assert about["env"] == robot and f"--env={robot}" in about["command"]


def linear_data(rows=2000):
    x = normal(rows, 4)
    return x, np.clip(x @ (0.2 * normal(4, 2, seed=1)) + np.float32([0.1, -0.3]), -1, 1)


def clone(folder, epochs):
    made = policy.GaussianPolicy(4, 2, (), -0.5, generator=np.random.default_rng(0))
    stage = RunRecord.create_or_continue(folder, "toy", {"seed": 0}).stage("cloning")
    fitted = behavior_cloning.fit_or_load(made, *linear_data(), epochs, 100, 0.01, 0, stage)
    return made, fitted, stage


def test_cloning_finds_a_linear_policy_and_leaves_log_std(tmp_path):
    x, actions = linear_data()
    made, fitted, stage = clone(tmp_path / "run", 12)
    # Least squares in closed form: the clipping leaves a small residual.
    design = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    solution, residual, *_ = np.linalg.lstsq(design, actions, rcond=None)
    kernel, bias = fitted.layers[0]
    np.testing.assert_allclose(np.vstack([kernel, bias]), solution, atol=0.01)
    assert stage.complete
    assert stage.result["mse"] == pytest.approx(residual.sum() / actions.size, abs=2e-4)
    np.testing.assert_array_equal(fitted.log_std, np.float32([-0.5, -0.5]))
    np.testing.assert_array_equal(made.mean(x[:5]), made.bind()(x[:5]))


def test_cloning_goes_on_where_it_stopped(tmp_path):
    _, straight, _ = clone(tmp_path / "straight", 4)
    clone(tmp_path / "stopped", 2)
    _, continued, _ = clone(tmp_path / "stopped", 4)
    assert_same_bits(straight, continued)
    _, again, _ = clone(tmp_path / "stopped", 4)
    assert_same_bits(straight, again)


def test_no_epochs_leave_the_policy_random(tmp_path):
    made, fitted, stage = clone(tmp_path / "run", 0)
    fresh = policy.GaussianPolicy(4, 2, (), -0.5, generator=np.random.default_rng(0))
    assert_same_bits(fitted, fresh.numpy())
    assert stage.complete
    _, again, _ = clone(tmp_path / "run", 0)  # it has weights to be read
    assert_same_bits(again, fitted)
