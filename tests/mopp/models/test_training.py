"""What MOPP's networks are fitted to: inputs and targets of the rows, and the way back."""

import dataclasses
import types

import numpy as np
import pytest
import toys

from mopp_tf.config import BehaviorConfig, DynamicsConfig, ModelConfig
from mopp_tf.models import behavior, dynamics, rows
from offline_tf.numerics.holdout import Split
from offline_tf.numerics.standardize import Statistics

TASK = dataclasses.replace(
    toys.cart(), action_low=np.array([-2.0], np.float32), action_high=np.array([4.0], np.float32)
)
MODEL = ModelConfig(encoder_hidden=(4,), head_hidden=(4,))
SCALE = rows.RewardScale(0.5, 4.0)
UNITS = rows.Normalizer(
    Statistics(np.array([1.0, -2.0], np.float32), np.array([2.0, 4.0], np.float32)),
    Statistics(np.array([0.25], np.float32), np.array([0.5], np.float32)),
    Statistics(np.array([0.1, -0.2, 0.3], np.float32), np.array([0.5, 2.0, 8.0], np.float32)),
)
DATA = toys.transitions((4, 3, 5))
TABLE = rows.prepare(TASK, DATA, SCALE, return_weighting=1.0)
# Clipped to the bounds and brought to [-1, 1].
UNIT_ACTIONS = (np.clip(DATA.actions, -2.0, 4.0) - 1.0) / 3.0
SPLIT = Split(np.array([9, 2, 5, 0, 11]), np.array([1, 7]))


@pytest.fixture
def seen(monkeypatch):
    """The members and named arguments of `training.fit_densities`; nothing is fitted."""
    found = []
    for module in (dynamics, behavior):
        monkeypatch.setattr(
            module.training,
            "fit_densities",
            lambda members, **named: found.append((members, types.SimpleNamespace(**named))) or {},
        )
    return found


@pytest.mark.parametrize("targets", ["delta", "absolute"])
def test_dynamics_are_fitted_to_what_the_planner_reads_out_of_them(seen, targets):
    config = DynamicsConfig(dynamics_members=2, targets=targets)
    model = dynamics.DynamicsModel(
        TASK,
        model=MODEL,
        config=config,
        normalizer=UNITS,
        change_scale=np.ones(3, np.float32),
        seed=0,
    )
    dynamics.fit(
        model,
        rows=TABLE,
        split=SPLIT,
        names=("x", "v"),
        knobs=MODEL,
        config=config,
        normalizer=UNITS,
        seed=0,
        stage=None,
    )
    members, given = seen[0]
    assert members is model.members and not given.squash and given.split is SPLIT
    assert given.names == ("x", "v", "reward")

    at = np.array([9, 2, 11])
    inputs, wanted = given.gather(at)
    states, actions = (DATA.observations[at] - [1.0, -2.0]) / [2.0, 4.0], UNIT_ACTIONS[at]
    expected = np.concatenate([states, (actions - 0.25) / 0.5], axis=1)
    np.testing.assert_allclose(inputs, expected, rtol=1e-5)
    after = DATA.next_observations[at]
    if targets == "delta":
        after = after - DATA.observations[at]
    rewards = (DATA.rewards[at] - 0.5) / 4.0
    expected = (np.column_stack([after, rewards]) - [0.1, -0.2, 0.3]) / [0.5, 2.0, 8.0]
    np.testing.assert_allclose(wanted, expected, rtol=1e-4, atol=1e-6)

    # A network that gave its targets would make the planner see what happened.
    found = model.next_states(DATA.observations[at], wanted)
    np.testing.assert_allclose(found, DATA.next_observations[at], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.rewards(wanted), rewards, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("return_weighting", [0.0, 1.0])
def test_behaviour_is_fitted_to_the_action_of_the_same_row(seen, return_weighting):
    config = BehaviorConfig(behavior_members=1, return_weighting=return_weighting)
    model = behavior.BehaviorModel(TASK, MODEL, config, UNITS, 0)
    table = TABLE._replace(actions=TABLE.actions.copy())
    table.actions[5] = 1.0
    behavior.fit(
        model,
        rows=table,
        split=SPLIT,
        names=("force",),
        knobs=MODEL,
        config=config,
        seed=0,
        stage=None,
    )
    members, given = seen[0]
    assert members is model.members and given.squash and given.split is SPLIT
    assert given.names == ("force",)
    expected = TABLE.weights if return_weighting else None
    assert given.row_weights is expected

    at = np.array([9, 2, 5])
    inputs, wanted = given.gather(at)
    np.testing.assert_allclose(
        inputs, (DATA.observations[at] - [1.0, -2.0]) / [2.0, 4.0], rtol=1e-5
    )
    # An action at a bound is moved off it, where the squashed density is infinite.
    np.testing.assert_allclose(wanted, [UNIT_ACTIONS[9], UNIT_ACTIONS[2], [0.999]], rtol=1e-5)
