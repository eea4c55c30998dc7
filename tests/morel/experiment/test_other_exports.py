"""ONNX and CasADi; what they compute is worked out by hand, and checked in processes of their own."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
import tensorflow as tf
import toys

from morel_tf.config import PmdpConfig
from morel_tf.experiment import casadi_model, export_controller
from morel_tf.experiment.export_controller import Controller
from morel_tf.models.usad import Calibration
from morel_tf.planning import pessimistic_mdp
from offline_tf.export import onnx_files
from offline_tf.types import UserError

STATES = np.array([[2.0, 1.0], [0.0, 1.0], [0.3, -0.5]], np.float32)
ACTIONS = np.array([[0.5], [0.5], [-1.0]], np.float32)


def controller(task=None):
    """At x = 2 the second model's x' is one too large."""
    task = task or toys.cart()
    ensemble, weights = toys.hinged_ensemble(task), np.ones(2, np.float32)
    return Controller(
        task,
        policy=toys.linear_policy([[0.2], [-0.4]], [0.1]),
        ensemble=ensemble,
        weights=weights,
        calibrations={"observation": Calibration(0.5, "delta", 0.0, 1.0, 1.0, 0.0, 1.0)},
        pmdp=pessimistic_mdp.make(
            task,
            physics="v2",
            ensemble=ensemble,
            weights=weights,
            threshold=0.5,
            least_reward=-1.0,
            mean_reward=0.0,
            config=PmdpConfig(),
        ),
    )


def test_onnx_files_compute_what_the_export_does_without_tensorflow(tmp_path):
    onnxruntime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    folder = tmp_path / "export"
    export_controller.export_and_verify(controller(), folder, STATES, ACTIONS)
    given = {"observation": STATES, "state": STATES, "action": ACTIONS}
    assert onnx_files.write(folder, export_controller.ONNX_FILES, given) < 1e-5
    sessions = {
        name: onnxruntime.InferenceSession(str(folder / f"{name}.onnx"))
        for name in ("policy", "detector", "model")
    }
    acted = sessions["policy"].run(["action"], {"observation": STATES})[0]
    np.testing.assert_allclose(acted, STATES @ [[0.2], [-0.4]] + 0.1, atol=1e-6)
    pair = {"observation": STATES, "action": ACTIONS}
    assert sessions["detector"].run(["known"], pair)[0].tolist() == [False, True, True]
    # Any number of rows.
    one = {"state": STATES[:1], "action": ACTIONS[:1]}
    after, known = sessions["model"].run(["next_state", "known"], one)
    np.testing.assert_allclose(after[:, 0], [[2.1, 1.25], [3.1, 1.25]], rtol=1e-6)
    assert known.tolist() == [False]
    about = {x.key: json.loads(x.value) for x in onnx.load(folder / "model.onnx").metadata_props}
    assert about["observation_names"] == list(toys.cart().observation_names)


def test_an_onnx_file_that_computes_something_else_is_no_success(tmp_path, monkeypatch):
    pytest.importorskip("tf2onnx")
    folder = tmp_path / "export"
    export_controller.export_and_verify(controller(), folder, STATES, ACTIONS)
    monkeypatch.setattr(onnx_files.fresh_process, "largest_difference", lambda *_: 0.01)
    with pytest.raises(RuntimeError, match=r"ONNX files differ by 0\.01, expected at most 0\.0001"):
        onnx_files.write(folder, {"policy": "serving_default"}, {"observation": STATES})


def test_casadi_has_the_models_their_mean_and_how_far_they_are_apart(tmp_path):
    casadi = pytest.importorskip("casadi")
    (tmp_path / "export").mkdir()
    assert controller().write_casadi(tmp_path / "export", STATES, ACTIONS) < 1e-5
    model = casadi.Function.load(str(tmp_path / "export" / "model.casadi"))
    found = model(state=STATES[0], action=ACTIONS[0])
    np.testing.assert_allclose(np.array(found["next_state"])[:, 0], [2.6, 1.25], rtol=1e-6)
    np.testing.assert_allclose(
        np.array(found["next_states"])[:, 0], [2.1, 1.25, 3.1, 1.25], rtol=1e-6
    )
    live = controller().forecast(tf.constant(STATES), tf.constant(ACTIONS))["disagreement"]
    np.testing.assert_allclose(float(found["disagreement"]), live[0], rtol=1e-6)
    assert float(found["threshold"]) == 0.5
    # An optimiser can follow it, also where the models agree to the last bit.
    state, action = casadi.MX.sym("s", 2), casadi.MX.sym("a", 1)
    slope = casadi.Function("f", [state, action], [casadi.jacobian(model(state, action)[1], state)])
    assert np.isfinite(np.array(slope(STATES[1], ACTIONS[1]))).all()


def test_casadi_moves_the_past_on(tmp_path):
    casadi = pytest.importorskip("casadi")
    task = dataclasses.replace(toys.cart(), becomes=(-1, 2))
    (tmp_path / "export").mkdir()
    controller(task).write_casadi(tmp_path / "export", STATES, ACTIONS)
    model = casadi.Function.load(str(tmp_path / "export" / "model.casadi"))
    assert float(model(state=STATES[0], action=[0.3])["next_state"][1]) == pytest.approx(0.3)


def test_casadi_is_compared_within_rates(tmp_path):
    """The plant's actions move slowly. The file has no rates; what it is compared with keeps them."""
    pytest.importorskip("casadi")
    task = dataclasses.replace(
        toys.cart(), becomes=(-1, 2), action_change=np.array([0.1], np.float32)
    )
    (tmp_path / "export").mkdir()
    assert controller(task).write_casadi(tmp_path / "export", STATES, ACTIONS) < 1e-5
    acted = controller(task).act(tf.constant(STATES))["action"].numpy()
    assert (np.abs(acted[:, 0] - STATES[:, 1]) <= 0.1 + 1e-6).all()


@pytest.mark.parametrize(
    ("package", "check", "words"),
    [
        ("tf2onnx", onnx_files.check_installed, "--onnx needs tf2onnx"),
        ("casadi", casadi_model.library, "--casadi needs casadi"),
    ],
)
def test_a_missing_package_is_named_with_its_command(monkeypatch, package, check, words):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"{words}: .*pip install -r .*requirements-"):
        check()
