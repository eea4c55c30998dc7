from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import toys

from mopp_tf.config import DynamicsConfig, ModelConfig
from mopp_tf.experiment import inspection
from mopp_tf.models import rows
from mopp_tf.models.dynamics import DynamicsModel
from offline_tf.numerics.standardize import Statistics

TASK = toys.cart()
SCALE = np.array([2.0, 0.5, 3.0], np.float32)


def model(conditioning, targets="delta"):
    """Two members: x' is N(0, 1) in normalised units, and v' is x' plus something of spread 0.1."""
    units = rows.Normalizer(
        toys.identity(2), toys.identity(1), Statistics(np.zeros(3, np.float32), SCALE)
    )
    knobs = ModelConfig(
        encoder_hidden=(4,),
        head_hidden=(2,),
        latent_dim=2,
        conditioning=conditioning,
        precision="float32",
    )
    config = DynamicsConfig(dynamics_members=2, targets=targets)
    made = DynamicsModel(
        TASK,
        model=knobs,
        config=config,
        normalizer=units,
        change_scale=np.ones(3, np.float32),
        seed=0,
    )
    for variable in made.weights:
        variable.assign(tf.zeros_like(variable))
    for member in made.members:
        member.order = (0, 1, 2)
        # Outputs are mean and raw spread; log std = -2.5 + 2.5 tanh(raw).
        for head, std in zip(member.heads, (1.0 - 1e-3, 0.1, 0.1), strict=True):
            raw = np.arctanh((np.log(std) + 2.5) / 2.5)
            head.layers[-1].bias.value.assign([0.0, raw])
        # Head 1 passes the value of x' on: relu(v), relu(-v) -> v.
        first, last = (
            member.heads[1].layers[0].kernel.value,
            member.heads[1].layers[-1].kernel.value,
        )
        first.assign(tf.tensor_scatter_nd_update(first, [[2, 0], [2, 1]], [1.0, -1.0]))
        last.assign([[1.0, 0.0], [-1.0, 0.0]])
    return made


@pytest.mark.parametrize("conditioning, second", [("teacher", np.sqrt(1.01)), ("mode", 0.1)])
def test_a_dimensions_spread_is_its_own(conditioning, second):
    """Given x', v' is known to 0.1; by itself it spreads as x' does, if heads see true values."""
    seen = inspection.view(TASK, model(conditioning), SCALE[:2], 1.0, "delta")
    states, actions = tf.zeros([300, 2]), tf.zeros([300, 1])
    found = seen.spread(states, actions).numpy()
    assert found.shape == (2, 300, 2)
    # 40 draws: each estimate is good to 11 %, the mean of 300 to 1 %.
    np.testing.assert_allclose(found.mean(axis=1) / SCALE[:2], [[1.0, second]] * 2, rtol=0.03)


@pytest.mark.parametrize("targets", ["delta", "absolute"])
def test_the_view_predicts_states_in_the_tasks_units(targets):
    made = model("mode", targets)
    seen = inspection.view(TASK, made, SCALE[:2], 7.0, "delta")
    states = tf.constant([[3.0, -1.0]])
    found = seen.predict(states, tf.constant([[5.0]]))
    expected = [[3.0, -1.0]] if targets == "delta" else [[0.0, 0.0]]
    np.testing.assert_allclose(found.next_states, [expected, expected], atol=1e-5)
    np.testing.assert_allclose(found.disagreement, [0.0], atol=1e-5)
    assert seen.limit == 7.0 and seen.names == ("x", "v")
