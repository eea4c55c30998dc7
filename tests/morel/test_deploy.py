from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import toys

from morel_tf import deploy
from morel_tf.deploy import Controller
from morel_tf.usad import Calibration
from offline_tf import tasks
from offline_tf.datasets import velocities

# a = 3 x + 0.25 v + 0.1, cut to [-1, 1]; disc = max(|x| - 1, 0).
KERNEL, BIAS = [[3.0], [0.25]], [0.1]


def _calibrations(**thresholds):
    return {
        name: Calibration(value, "delta", 0.0, 1.0, 1.0, 0.0, 1.0)
        for name, value in thresholds.items()
    }


def _controller(limit=None, scale=None, observation=0.5, history=0.5):
    task = toys.cart(limit=limit)
    return Controller(
        task,
        toys.linear_policy(KERNEL, BIAS, log_std=0.5, input_scale=scale),
        toys.hinged_ensemble(task),
        np.ones(2, np.float32),
        _calibrations(planning=np.inf, observation=observation, history=history),
    )


def _samples(count=20):
    rng = np.random.default_rng(0)
    states = rng.uniform(-3, 3, (count, 2)).astype(np.float32)
    return states, rng.uniform(-1, 1, (count, 1)).astype(np.float32)


def _in_this_process(folder, signature, inputs):
    call = tf.saved_model.load(str(folder)).signatures[signature]
    return {k: v.numpy() for k, v in call(**{k: tf.constant(v) for k, v in inputs.items()}).items()}


def test_act_is_the_mean_action_within_the_bounds():
    observations = tf.constant([[0.1, 0.0], [0.0, -2.0], [4.0, 0.0], [-4.0, 0.0]])
    found = _controller().act(observations)["action"]
    np.testing.assert_allclose(found, [[0.4], [-0.4], [1.0], [-1.0]], rtol=1e-6)
    scaled = _controller(scale=np.array([1.0, 0.1])).act(observations)["action"]
    np.testing.assert_allclose(scaled, [[0.4], [0.05], [1.0], [-1.0]], rtol=1e-5)


@pytest.mark.parametrize(("x", "known"), [(0.3, True), (1.499, True), (1.5, True), (1.501, False)])
def test_known_means_at_most_the_threshold(x, known):
    found = _controller().is_known(tf.constant([[x, 0.0]]), tf.zeros([1, 1]))
    assert found["known"].numpy().tolist() == [known]
    np.testing.assert_allclose(found["disagreement"], [max(x - 1, 0)], atol=1e-6)


def test_each_detector_has_its_own_threshold():
    controller = _controller(limit=2.0, observation=0.1, history=0.9)
    arguments = (tf.constant([[1.5, 0.0]]), tf.zeros([1, 1]))
    assert not controller.is_known(*arguments)["known"].numpy()[0]
    assert controller.is_known_history(arguments[0], *arguments)["known"].numpy()[0]


def test_a_disagreement_that_is_no_number_is_not_known():
    found = _controller().is_known(tf.constant([[np.nan, 0.0]]), tf.zeros([1, 1]))
    assert not found["known"].numpy()[0]


def test_history_restores_the_velocity_that_the_observation_clips():
    """The member's disagreement is made to depend on v: |w (f_0 - f_1)| = |v|, beyond the limit too."""
    controller = _controller(limit=2.0)
    first, second = controller._ensemble.members
    for member, sign in ((first, 0.5), (second, -0.5)):
        kernel = np.zeros((6, 2), np.float32)
        kernel[:2, 0] = sign, -sign
        member.layers[-1].set_weights([kernel, np.zeros(2, np.float32)])
    previous, observation = tf.constant([[0.0, 2.0]]), tf.constant([[0.4, 2.0]])
    action = tf.zeros([1, 1])
    plain = controller.is_known(observation, action)["disagreement"]
    restored = controller.is_known_history(previous, observation, action)["disagreement"]
    np.testing.assert_allclose(plain, [2.0], rtol=1e-6)
    np.testing.assert_allclose(restored, [4.0], rtol=1e-5)  # (0.4 - 0.0) / 0.1


@pytest.mark.parametrize("name", ["hopper", "walker2d", "halfcheetah", "cart"])
def test_finite_difference_is_the_one_of_the_data(name):
    task = toys.cart(limit=2.0) if name == "cart" else tasks.get(name)
    rng = np.random.default_rng(0)
    limit = task.velocity_limit or 10.0
    before, now = rng.normal(size=(2, 500, task.state_dim)).astype(np.float32)
    speeds = rng.choice([-limit, limit, 0.3 * limit, -limit * 1.2], (500, task.state_dim))
    for column in task.velocity_indices:
        now[:, column] = speeds[:, column]
    # Positions move by up to twice the limit, on either side.
    for velocity, position in task.finite_difference:
        slope = rng.uniform(-2, 2, 500) * limit
        now[:, position] = before[:, position] + slope * task.dt
        del velocity
    expected = velocities.finite_difference(task, before, now)
    found = deploy.finite_difference(task, tf.constant(before), tf.constant(now))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    changed = (expected != now).mean()
    assert changed == 0.0 if task.velocity_limit is None else changed > 0.05


def test_signatures_take_any_batch_and_history_exists_where_velocities_are_clipped():
    names = {limit: set(_controller(limit=limit).signatures()) for limit in (None, 2.0)}
    assert names[None] == {"serving_default", "is_known"}
    assert names[2.0] == {"serving_default", "is_known", "is_known_history"}
    controller = _controller()
    made = controller.signatures()
    for count in (1, 7):
        states, actions = _samples(count)
        acted = made["serving_default"](observation=tf.constant(states))["action"]
        np.testing.assert_allclose(acted, controller.act(tf.constant(states))["action"], rtol=1e-6)
        judged = made["is_known"](observation=tf.constant(states), action=tf.constant(actions))
        assert judged["known"].shape == judged["disagreement"].shape == (count,)


def test_a_fresh_process_computes_the_same(tmp_path, monkeypatch):
    """The detector in a process that has never seen this project; the rest in this one."""
    real, called = deploy.export.run_in_fresh_process, []

    def run(folder, signature, inputs):
        called.append(signature)
        where = real if signature == "is_known" else _in_this_process
        return where(folder, signature, inputs)

    monkeypatch.setattr(deploy.export, "run_in_fresh_process", run)
    controller = _controller(limit=2.0)
    error = deploy.export_and_verify(controller, tmp_path / "export", *_samples())
    assert 0.0 <= error <= 1e-6
    assert sorted(called) == ["is_known", "is_known_history", "serving_default"]
    assert [p.name for p in tmp_path.iterdir()] == ["export"]
    # The weights are in the folder, not in this process: change them here, and it does not follow.
    states, actions = _samples()
    expected = controller.act(tf.constant(states))["action"].numpy()
    controller._policy.weights[0].assign_add([[5.0], [5.0]])
    found = _in_this_process(tmp_path / "export", "serving_default", {"observation": states})
    np.testing.assert_allclose(found["action"], expected, atol=1e-6)


def _export_with(controller, monkeypatch, change, folder):
    """export_and_verify where the fresh process returns change(signature, outputs)."""
    made = controller.signatures()

    def run(_, name, inputs):
        outputs = made[name](**{k: tf.constant(v) for k, v in inputs.items()})
        return change(name, {k: v.numpy().copy() for k, v in outputs.items()})

    monkeypatch.setattr(deploy.export, "save", lambda *_: None)
    monkeypatch.setattr(deploy.export, "run_in_fresh_process", run)
    return deploy.export_and_verify(controller, folder, *_samples())


@pytest.mark.parametrize("signature", ["serving_default", "is_known", "is_known_history", ""])
def test_an_export_that_differs_is_detected(tmp_path, monkeypatch, signature):
    def change(name, outputs):
        if name == signature:
            key = "action" if name == "serving_default" else "disagreement"
            outputs[key][-1] += 1e-5  # 10 times the tolerance, and disagreements are below 3
        return outputs

    if signature:
        with pytest.raises(RuntimeError, match="differ by"):
            _export_with(_controller(limit=2.0), monkeypatch, change, tmp_path)
    else:
        assert _export_with(_controller(limit=2.0), monkeypatch, change, tmp_path) == 0.0


def test_an_export_that_computes_no_numbers_is_detected(tmp_path, monkeypatch):
    def change(name, outputs):
        return {k: np.full_like(v, np.nan) for k, v in outputs.items()}

    with pytest.raises(RuntimeError, match="differ"):
        _export_with(_controller(), monkeypatch, change, tmp_path)
