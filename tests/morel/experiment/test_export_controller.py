from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import toys

from morel_tf.config import PmdpConfig
from morel_tf.experiment import export_controller
from morel_tf.experiment.export_controller import Controller
from morel_tf.models.usad import Calibration
from morel_tf.planning import pessimistic_mdp
from offline_tf import tasks
from offline_tf.datasets import velocities
from offline_tf.types import UserError

# a = 3 x + 0.25 v + 0.1, cut to [-1, 1]; disc = max(|x| - 1, 0).
KERNEL, BIAS = [[3.0], [0.25]], [0.1]


def _calibrations(**thresholds):
    return {
        name: Calibration(value, "delta", 0.0, 1.0, 1.0, 0.0, 1.0)
        for name, value in thresholds.items()
    }


def _controller(limit=None, scale=None, observation=0.5, history=0.5, fallback="-0.25", **pmdp):
    task = toys.cart(limit=limit)
    ensemble, weights = toys.hinged_ensemble(task), np.ones(2, np.float32)
    cloned = toys.linear_policy([[0.0], [1.0]], [0.0]).numpy()
    return Controller(
        task,
        policy=toys.linear_policy(KERNEL, BIAS, log_std=0.5, input_scale=scale),
        ensemble=ensemble,
        weights=weights,
        calibrations=_calibrations(planning=np.inf, observation=observation, history=history),
        fallback=export_controller.fallback_of(task, fallback, cloned) if fallback else None,
        pmdp=pessimistic_mdp.make(
            task,
            physics="v2",
            ensemble=ensemble,
            weights=weights,
            threshold=0.5,
            least_reward=-1.0,
            mean_reward=0.0,
            config=PmdpConfig(halt_offset=50.0, **pmdp),
        ),
    )


def _samples(count=20):
    rng = np.random.default_rng(0)
    states = rng.uniform(-3, 3, (count, 2)).astype(np.float32)
    return states, rng.uniform(-1, 1, (count, 1)).astype(np.float32)


def _in_this_process(folder, given):
    return {name: _called(folder, name, inputs) for name, inputs in given.items()}


def _called(folder, signature, inputs):
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


# 1e30: a number, but not after a few layers. In a graph, fused kernels turn NaN into 0.
NO_NUMBERS = (np.nan, np.inf, -np.inf, 1e30, -1e38)


def test_an_action_that_is_no_number_is_not_known():
    found = tf.function(_controller().is_known)(tf.zeros([2, 2]), tf.constant([[0.5], [np.nan]]))
    assert found["known"].numpy().tolist() == [True, False]


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("signature", ["is_known", "is_known_history", "act_guarded", "step"])
def test_what_is_no_number_is_not_known(signature, graph):
    controller = _controller(limit=2.0)
    call = getattr(controller, signature)
    if graph:
        call = tf.function(call)
    rows = np.float32(
        [[0.5, 0.0], *([x, 0.0] for x in NO_NUMBERS), *([0.5, x] for x in NO_NUMBERS)]
    )
    given = {
        "is_known": (rows, np.zeros((11, 1), np.float32)),
        "is_known_history": (np.tile(rows[:1], (11, 1)), rows, np.zeros((11, 1), np.float32)),
        "act_guarded": (rows,),
        "step": (rows, np.zeros((11, 1), np.float32), np.zeros(11, np.int32)),
    }[signature]
    found = call(*map(tf.constant, given))
    assert found["known"].numpy().tolist() == [True] + 10 * [False]
    if signature == "act_guarded":
        np.testing.assert_array_equal(found["action"][1:], np.full((10, 1), -0.25))
        assert found["fallback_used"].numpy().tolist() == [False] + 10 * [True]
    if signature == "step":
        assert found["terminated"].numpy().tolist() == [False] + 10 * [True]
        np.testing.assert_array_equal(found["reward"][1:], np.full(10, -51.0))


def test_a_forecast_is_of_every_model():
    """At x = 2 the second model's x' is one too large; both are told, and that they disagree."""
    found = _controller().forecast(tf.constant([[2.0, 1.0], [0.0, 1.0]]), tf.constant([[0.5]] * 2))
    first, second = found["next_state"].numpy()
    np.testing.assert_allclose(first, [[2.1, 1.25], [0.1, 1.25]], rtol=1e-6)
    np.testing.assert_allclose(second, [[3.1, 1.25], [0.1, 1.25]], rtol=1e-6)
    assert found["known"].numpy().tolist() == [False, True]
    expected = 1.0 + np.array([[2.1, 0.1], [3.1, 0.1]]) + 0.3 * 1.0 - 0.1 * 0.25
    np.testing.assert_allclose(found["reward"], expected, rtol=1e-6)


def test_history_restores_the_velocity_that_the_observation_clips():
    """The member's disagreement is made to depend on v: |w (f_0 - f_1)| = |v|, beyond the limit too."""
    controller = _controller(limit=2.0)
    first, second = controller.ensemble.members
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
    exported = controller.signatures()["is_known_history"]
    given = {"previous_observation": previous, "observation": observation, "action": action}
    np.testing.assert_allclose(exported(**given)["disagreement"], [4.0], rtol=1e-5)


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
    found = export_controller.finite_difference(task, tf.constant(before), tf.constant(now))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    changed = (expected != now).mean()
    assert changed == 0.0 if task.velocity_limit is None else changed > 0.05


def test_signatures_take_any_batch_and_history_exists_where_velocities_are_clipped():
    names = {limit: set(_controller(limit=limit).signatures()) for limit in (None, 2.0)}
    always = {"serving_default", "sample", "is_known", "act_guarded", "step", "forecast"}
    assert names[None] == always and names[2.0] == always | {"is_known_history"}
    assert set(_controller(fallback="").signatures()) == always - {"act_guarded"}
    controller = _controller()
    made = controller.signatures()
    for count in (1, 7):
        states, actions = _samples(count)
        acted = made["serving_default"](observation=tf.constant(states))["action"]
        np.testing.assert_allclose(acted, controller.act(tf.constant(states))["action"], rtol=1e-6)
        judged = made["is_known"](observation=tf.constant(states), action=tf.constant(actions))
        assert judged["known"].shape == judged["disagreement"].shape == (count,)


def test_a_draw_is_the_mean_and_noise_of_the_seed_within_the_bounds():
    controller = _controller()
    states = tf.constant([[0.1, 0.0]] * 4000)
    draws = controller.sample(states, tf.constant([1, 2]))["action"].numpy()
    np.testing.assert_array_equal(draws, controller.sample(states, [1, 2])["action"])
    assert np.abs(draws).max() == 1.0  # clipped
    normal = np.random.default_rng(0).normal(0.4, np.exp(0.5), 400_000).clip(-1, 1)
    np.testing.assert_allclose(draws.mean(), normal.mean(), atol=0.04)
    np.testing.assert_allclose(draws.std(), normal.std(), atol=0.03)


@pytest.mark.parametrize(("fallback", "expected"), [("-0.25", -0.25), ("cloning", 0.75)])
def test_guarded_control_falls_back_where_the_action_is_unknown(fallback, expected):
    observations = tf.constant([[0.0, 0.75], [1.4, 0.75], [1.6, 0.75], [np.nan, 0.75]])
    controller = _controller(fallback=fallback)
    found = {k: v.numpy() for k, v in controller.act_guarded(observations).items()}
    assert found["known"].tolist() == [True, True, False, False]
    assert found["fallback_used"].tolist() == [False, False, True, True]
    alone = controller.act(observations)["action"].numpy()
    np.testing.assert_allclose(found["action"][:2], alone[:2])
    np.testing.assert_allclose(found["action"][2], [expected])
    np.testing.assert_allclose(found["disagreement"][:3], [0.0, 0.4, 0.6], atol=1e-6)


def test_a_fallback_that_sees_no_number_gives_none_but_a_constant_does():
    observation = tf.constant([[np.nan, 0.0]])
    constant = _controller(fallback="0.5").act_guarded(observation)["action"]
    np.testing.assert_allclose(constant, [[0.5]])


@pytest.mark.parametrize("bad", ["", "clone", "0.1,0.2", "2.0", "nan"])
def test_a_bad_fallback_is_named(bad):
    cloned = toys.linear_policy(KERNEL, BIAS).numpy()
    with pytest.raises(UserError, match="--fallback: expected cloning, or 1 numbers within"):
        export_controller.fallback_of(toys.cart(), bad, cloned)


def test_a_step_is_one_of_the_pessimistic_mdp():
    controller = _controller()
    states = tf.constant([[0.5, 1.0], [0.5, 1.0], [3.0, 1.0], [np.nan, 1.0]])
    actions = tf.constant([[1.0], [7.0], [1.0], [1.0]])
    found = controller.step(states, actions, tf.constant([0, 1, 0, 0]))
    # Where they agree both models are the cart itself, and the action is clipped.
    np.testing.assert_allclose(found["next_state"][:2], [[0.6, 1.5]] * 2, rtol=1e-5)
    expected = toys.reward(np.array([[0.5, 1.0]]), np.ones((1, 1)), np.array([[0.6, 1.5]]))
    np.testing.assert_allclose(found["reward"], [*expected, *expected, -51.0, -51.0], rtol=1e-5)
    assert found["known"].numpy().tolist() == [True, True, False, False]
    assert found["terminated"].numpy().tolist() == [False, False, True, True]
    judged = controller.is_known(states, actions)["known"]
    np.testing.assert_array_equal(found["known"], judged)


def test_a_step_says_that_a_path_is_over_also_where_the_planner_goes_on():
    """The authors' variant: planned with actions as drawn, paths cut without a flag."""
    controller = _controller(halt="truncate", model_actions="drawn")
    states, actions = tf.constant([[0.5, 1.0], [3.0, 1.0]]), tf.constant([[7.0], [1.0]])
    found = controller.step(states, actions, tf.constant([0, 0]))
    np.testing.assert_allclose(found["next_state"], [[0.6, 4.5], [3.0, 1.0]], rtol=1e-5)
    assert found["known"].numpy().tolist() == [True, False]
    assert found["terminated"].numpy().tolist() == [False, True]


def _lite_in_this_process(path, given):
    ((name, inputs),) = given.items()
    runner = tf.lite.Interpreter(model_path=str(path)).get_signature_runner()
    return {name: runner(**inputs)}


def test_a_fresh_process_computes_the_same(tmp_path, monkeypatch):
    """The SavedModel in a process that has never seen this project; the LiteRT files in this one."""
    real, called = export_controller.saved_model.run_in_fresh_process, []

    def run(path, given):
        called.append((path.name, sorted(given)))
        return (_lite_in_this_process if path.suffix else real)(path, given)

    monkeypatch.setattr(export_controller.saved_model, "run_in_fresh_process", run)
    controller = _controller(limit=2.0)
    error = export_controller.export_and_verify(
        controller, tmp_path / "export", *_samples(), lite=True
    )
    assert 0.0 <= error <= 1e-6
    names = sorted(controller.signatures())
    assert called == [
        ("export", names),
        ("policy.tflite", ["serving_default"]),
        ("detector.tflite", ["is_known"]),
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["export"]
    text = (tmp_path / "export" / "README.md").read_text()
    for name, deed in export_controller._SAYS.items():
        assert f"| `{name}` | " in text and deed in text
    assert "`observation` [B, 2] float32" in text and "`seed` [2] int32" in text
    assert "force in [-1, 1]; one every 0.1 s." in text
    runner = tf.lite.Interpreter(str(tmp_path / "export" / "detector.tflite"))
    call = runner.get_signature_runner()
    for x in (0.5, *NO_NUMBERS):
        given = {"observation": np.float32([[x, 0.0]]), "action": np.zeros((1, 1), np.float32)}
        assert call(**given)["known"].tolist() == [x == 0.5]
    # The weights are in the folder, not in this process: change them here, and it does not follow.
    states, actions = _samples()
    expected = controller.act(tf.constant(states))["action"].numpy()
    controller._policy.weights[0].assign_add([[5.0], [5.0]])
    found = _called(tmp_path / "export", "serving_default", {"observation": states})
    np.testing.assert_allclose(found["action"], expected, atol=1e-6)


def _export_with(controller, monkeypatch, change, folder):
    """export_and_verify where the fresh process returns change(signature, outputs)."""
    made = controller.signatures()

    def call(name, inputs):
        outputs = made[name](**{k: tf.constant(v) for k, v in inputs.items()})
        return change(name, {k: v.numpy().copy() for k, v in outputs.items()})

    def run(_, given):
        return {name: call(name, inputs) for name, inputs in given.items()}

    monkeypatch.setattr(export_controller.saved_model, "save", lambda *_: None)
    monkeypatch.setattr(export_controller.saved_model, "run_in_fresh_process", run)
    return export_controller.export_and_verify(controller, folder, *_samples())


@pytest.mark.parametrize("signature", [*export_controller._SAYS, ""])
def test_an_export_that_differs_is_detected(tmp_path, monkeypatch, signature):
    def change(name, outputs):
        if name == signature:
            key = "action" if "action" in outputs else "disagreement"
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
