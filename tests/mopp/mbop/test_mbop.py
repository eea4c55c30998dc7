import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
import toys

from mopp_tf import algorithm
from mopp_tf.config import (
    BehaviorConfig,
    DynamicsConfig,
    MbopConfig,
    ModelConfig,
    PlannerConfig,
    QConfig,
)
from mopp_tf.mbop import learning, mbop_planner
from mopp_tf.models import rows, training
from mopp_tf.models.dynamics import DynamicsModel
from mopp_tf.objectives import Objective
from offline_tf.models import networks
from offline_tf.numerics.holdout import Split
from offline_tf.numerics.standardize import Statistics
from offline_tf.types import UserError

TASK = toys.cart()
PLAIN = Objective(rows.RewardScale(0.0, 1.0))
KNOBS = PlannerConfig(population=6, horizon=3, inverse_temperature=0.0, planner_termination="none")
UNITS = algorithm.Prepared(
    rows.RewardScale(0.0, 1.0),
    rows.Normalizer(toys.identity(2), toys.identity(1), toys.identity(3)),
    np.ones(3, np.float32),
)


def linear(matrix, bias):
    """A network without hidden layers: x -> x @ matrix + bias."""
    made = networks.mlp(
        len(matrix),
        hidden=(),
        output_dim=len(bias),
        activation="relu",
        generator=np.random.default_rng(0),
    )
    kernel, offset = made.layers[0].kernel.value, made.layers[0].bias.value
    kernel.assign(np.asarray(matrix, np.float32))
    offset.assign(np.asarray(bias, np.float32))
    return made


def models(behaviors, rewards, value=((0.0, 0.0, 0.0), 0.0), pushes=None, units=UNITS):
    """Behaviour i: constant action; dynamics i: x' = x + a + push i, v' = v, constant reward i."""
    steps = [
        linear([[0, 0, 0], [0, 0, 0], [1, 0, 0]], [push, 0.0, reward])
        for reward, push in zip(rewards, pushes or [0.0] * len(rewards), strict=True)
    ]
    dynamics = DynamicsModel(
        TASK,
        model=ModelConfig(),
        config=DynamicsConfig(),
        normalizer=units.normalizer,
        change_scale=units.change_scale,
        seed=0,
        points=steps,
    )
    acts = [linear(np.zeros((3, 1)), [action]) for action in behaviors]
    weights, bias = value
    return learning.MbopModels(acts, dynamics, [linear(np.array(weights)[:, None], [bias])])


def planner(
    made,
    knobs=KNOBS,
    sigma=0.0,
    mix=0.0,
    shift=0.0,
    scale=1.0,
    task=TASK,
    units=UNITS,
    objective=PLAIN,
):
    learned = learning.MbopLearned(made, units, shift, scale)
    config = MbopConfig(mbop_sigma=sigma, mbop_mix=mix)
    return mbop_planner.MbopPlanner(
        task, learned=learned, knobs=knobs, mbop=config, objective=objective
    )


def decide(made, plan=None, seed=(0, 1), states=((0.0, 0.0), (1.0, 0.0))):
    states = tf.constant(states, tf.float32)
    plan = made.initial_plan(states) if plan is None else tf.constant(plan, tf.float32)
    return made.decide(states, plan, tf.constant(seed, tf.int32))


def naive_returns(rewards, ends, terminals, horizon):
    found = []
    for start in range(len(rewards)):
        total, at, value = 0.0, start, None
        for step in range(horizon):
            total += rewards[at]
            if ends[at]:
                value = total if terminals[at] or step == horizon - 1 else np.nan
                break
            at += 1
        found.append(total if value is None else value)
    return np.array(found)


@pytest.mark.parametrize("horizon", [1, 2, 3, 7])
def test_truncated_returns_stay_in_their_episode(horizon):
    generator = np.random.default_rng(horizon)
    rewards = generator.normal(size=40)
    ends = generator.random(40) < 0.2
    ends[-1] = True
    terminals = ends & (generator.random(40) < 0.5)
    found = learning.truncated_returns(rewards, ends, terminals, horizon)
    expected = naive_returns(rewards, ends, terminals, horizon)
    assert (horizon == 1) == np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected)


def test_each_candidate_follows_one_behaviour_member_and_rewards_are_the_ensembles_mean():
    # Two behaviours, two dynamics: candidates 0, 2, 4 act by +0.5, the others by -0.25.
    found = decide(planner(models((0.5, -0.25), (1.0, 3.0))))
    np.testing.assert_allclose(found.returns, np.full((2, 6), 3 * 2.0))
    np.testing.assert_allclose(found.weights, np.full((2, 6), 1 / 6), rtol=1e-6)
    np.testing.assert_allclose(found.action, [[0.125], [0.125]], rtol=1e-6)
    np.testing.assert_allclose(found.disagreement, np.full((2, 3), 2.0))


def test_the_value_of_the_last_state_and_action_is_added_in_the_rewards_units():
    value = ((1.0, 0.0, 10.0), 0.25)
    made = planner(models((0.5,), (0.0,), value), shift=7.0, scale=2.0)
    found = decide(made)
    expected = 7.0 + 2.0 * (np.array([0.0, 1.0]) + 3 * 0.5 + 10.0 * 0.5 + 0.25)
    np.testing.assert_allclose(found.returns, np.repeat(expected[:, None], 6, axis=1), rtol=1e-6)
    without = dataclasses.replace(KNOBS, terminal_value=False)
    found = decide(planner(models((0.5,), (0.0,), value), without))
    np.testing.assert_array_equal(found.returns, np.zeros((2, 6)))


def test_each_candidate_follows_its_own_dynamics_member():
    made = planner(models((0.0,), (0.0, 0.0), ((1.0, 0.0, 0.0), 0.0), pushes=(0.1, -0.2)))
    found = decide(made)
    expected = np.array([[0.0], [1.0]]) + 3 * np.array([0.1, -0.2] * 3)
    np.testing.assert_allclose(found.returns, expected, rtol=1e-5, atol=1e-6)


def test_nothing_is_paid_and_no_value_follows_after_an_end():
    task = dataclasses.replace(TASK, termination=lambda states: states[..., 0] > 1.2)
    knobs = dataclasses.replace(KNOBS, planner_termination="task")
    made = models((0.5,), (1.0,), ((0.0, 0.0, 0.0), 100.0))
    states = ((0.0, 0.0), (1.0, 0.0), (-1.0, 0.0))  # end after three steps, after one, not at all
    found = decide(planner(made, knobs, task=task), states=states)
    expected = np.repeat([[3.0], [1.0], [103.0]], 6, axis=1)
    np.testing.assert_allclose(found.returns, expected, rtol=1e-6)


def test_the_best_candidate_rules_at_a_high_temperature():
    knobs = dataclasses.replace(KNOBS, inverse_temperature=50.0)
    found = decide(planner(models((0.5, -0.25), (0.0,), ((1.0, 0.0, 0.0), 0.0)), knobs))
    np.testing.assert_allclose(found.action, [[0.5], [0.5]], rtol=1e-5)
    np.testing.assert_allclose(found.trajectory[:, :, 0], [[0, 0.5, 1, 1.5], [1, 1.5, 2, 2.5]])


def test_the_mixed_action_is_executed_and_fed_on():
    class Echo:
        """A behaviour that repeats the previous action."""

        def __new__(cls):
            return linear([[0.0], [0.0], [1.0]], [0.0])

    made = models((0.0,), (0.0,))
    made = made._replace(behavior=[Echo()])
    plan = np.array([[[0.4], [0.8], [-0.8]]] * 2)
    found = decide(planner(made, mix=0.5), plan)
    # a_0 = (0.4 + 0.4) / 2; a_1 = (0.4 + 0.8) / 2; a_2 = (0.6 - 0.8) / 2
    np.testing.assert_allclose(found.plan[:, :, 0], [[0.4, 0.6, -0.1]] * 2, rtol=1e-6)
    np.testing.assert_allclose(found.action[:, 0], [0.4, 0.4], rtol=1e-6)


def test_noise_has_the_asked_spread_and_repeats_under_a_seed():
    knobs = dataclasses.replace(KNOBS, population=4000, horizon=1, inverse_temperature=0.0)
    made = planner(models((0.1,), (0.0,), ((0.0, 0.0, 1.0), 0.0)), knobs, sigma=0.2)
    found, again, other = (decide(made, seed=s) for s in ((0, 1), (0, 1), (0, 2)))
    np.testing.assert_allclose(found.returns.numpy().mean(), 0.1, atol=0.01)
    np.testing.assert_allclose(found.returns.numpy().std(), 0.2, rtol=0.03)
    np.testing.assert_array_equal(found.returns, again.returns)
    assert np.abs(found.returns - other.returns).max() > 0.1


def test_plans_are_in_units_of_the_bounds_and_actions_in_the_tasks():
    task = toys.cart(action_low=np.float32([1.0]), action_high=np.float32([5.0]))
    found = decide(planner(models((0.5,), (0.0,)), task=task))
    np.testing.assert_allclose(found.plan, np.full((2, 3, 1), 0.5))
    np.testing.assert_allclose(found.action, [[4.0], [4.0]])
    beyond = decide(planner(models((9.0,), (0.0,)), task=task))
    np.testing.assert_allclose(beyond.action, [[5.0], [5.0]])


def test_the_first_plan_is_zero():
    found = planner(models((0.5,), (0.0,))).initial_plan(tf.zeros([4, 2]))
    np.testing.assert_array_equal(found, np.zeros((4, 3, 1)))
    assert isinstance(models((0.5,), (0.0,)).behavior[0], keras.Sequential)


MOVED = UNITS._replace(
    normalizer=UNITS.normalizer._replace(
        states=Statistics(np.array([1.0, -2.0], np.float32), np.array([2.0, 4.0], np.float32))
    )
)


def test_behaviour_and_value_see_normalised_states():
    made = models((0.0,), (0.0,), ((1.0, 10.0, 0.0), 0.0), units=MOVED)
    made = made._replace(behavior=[linear([[1.0], [0.5], [0.0]], [0.0])])
    knobs = dataclasses.replace(KNOBS, horizon=1)
    found = decide(planner(made, knobs, units=MOVED), states=((0.5, -3.0), (1.5, 0.0)))
    # (x - 1) / 2 + 0.5 (v + 2) / 4
    actions = np.array([-0.25 - 0.125, 0.25 + 0.25])
    np.testing.assert_allclose(found.action[:, 0], actions, rtol=1e-6)
    after = np.array([0.5, 1.5]) + actions
    expected = (after - 1.0) / 2.0 + 10.0 * np.array([-0.25, 0.5])
    np.testing.assert_allclose(found.returns, np.repeat(expected[:, None], 6, axis=1), rtol=1e-5)


def test_the_noise_of_each_step_is_its_own():
    knobs = dataclasses.replace(KNOBS, population=4000, horizon=3)
    found = decide(planner(models((0.0,), (0.0,)), knobs, sigma=0.2)).states[0, :, :, 0].numpy()
    actions = np.diff(found, axis=1)
    np.testing.assert_allclose(np.corrcoef(actions.T), np.eye(3), atol=0.08)
    np.testing.assert_allclose(actions.std(axis=0), 0.2, rtol=0.05)


def test_a_hard_constraint_prunes_and_a_soft_one_is_paid():
    knobs = dataclasses.replace(KNOBS, horizon=1)
    ahead = Objective(PLAIN.scale, constraint=lambda s, a, n: n[:, 0] - 0.25)
    made = models((0.5, -0.25), (0.0,))
    found = decide(planner(made, knobs, objective=ahead), states=((0.0, 0.0),))
    np.testing.assert_array_equal(found.keep, [[False, True] * 3])
    np.testing.assert_allclose(found.action, [[-0.25]], rtol=1e-6)
    paid = decide(
        planner(made, knobs, objective=dataclasses.replace(ahead, price=8.0)), states=((0.0, 0.0),)
    )
    np.testing.assert_allclose(paid.returns, [[-2.0, 0.0] * 3], rtol=1e-6)
    assert paid.keep.numpy().all()


def learn_without_fitting(monkeypatch, record, lengths, horizon):
    """What each network would be fitted to: stage -> (function of row numbers, rows, names)."""
    seen = []

    def fit(*, loss_by_dimension, loss_name, gather, split, names, **_):
        assert (loss_by_dimension, loss_name) == (training.squared_error, "mse")
        seen.append((gather, split, names))
        return {}

    monkeypatch.setattr(learning.training, "fit_members", fit)
    data = toys.transitions(lengths)
    table = rows.prepare(TASK, data, PLAIN.scale)
    half = len(data) // 2
    prepared = MOVED._replace(table=table, split=Split(np.arange(half), np.arange(half, len(data))))
    knobs = algorithm.Knobs(
        ModelConfig(), DynamicsConfig(), BehaviorConfig(), QConfig(), PlannerConfig(horizon=horizon)
    )
    learned = learning.learn(TASK, prepared=prepared, knobs=knobs, seed=0, record=record)
    return data, learned, dict(zip(("dynamics", "behavior", "q"), seen, strict=True))


def test_networks_are_fitted_to_what_follows_the_previous_action(monkeypatch, tmp_path):
    # Episodes of rows 0-3 (timeout), 4-6 (terminal), 7-10 (timeout), 11-13 (terminal).
    data, learned, seen = learn_without_fitting(
        monkeypatch, toys.record(tmp_path), (4, 3, 4, 3), horizon=2
    )
    states = (data.observations - [1.0, -2.0]) / [2.0, 4.0]

    gather, split, names = seen["behavior"]
    assert names == TASK.action_names
    assert split.train.tolist() == [1, 2, 3, 5, 6] and split.held_out.tolist() == [8, 9, 10, 12, 13]
    for at in split:
        inputs, targets = gather(at)
        expected = np.concatenate([states[at], data.actions[at - 1]], axis=1)
        np.testing.assert_allclose(inputs, expected, rtol=1e-6)
        np.testing.assert_array_equal(targets, data.actions[at])

    gather, split, _ = seen["q"]
    # Row 3 and 10 stand before a time limit: their second reward is not known.
    assert split.train.tolist() == [1, 2, 5, 6] and split.held_out.tolist() == [8, 9, 12, 13]
    inputs, targets = gather(split.train)
    expected = np.concatenate([states[split.train], data.actions[split.train - 1]], axis=1)
    np.testing.assert_allclose(inputs, expected, rtol=1e-6)
    r = data.rewards
    value = learned.value_shift + learned.value_scale * targets[:, 0]
    np.testing.assert_allclose(value, [r[1] + r[2], r[2] + r[3], r[5] + r[6], r[6]], rtol=1e-5)

    gather, split, names = seen["dynamics"]
    assert len(split.train) == 7 and names == ("x", "v", "reward")
    inputs, targets = gather(split.train)
    expected = np.concatenate([states[:7], data.actions[:7]], axis=1)
    np.testing.assert_allclose(inputs, expected, rtol=1e-6)
    change = toys.change(data.observations[:7], data.actions[:7])
    np.testing.assert_allclose(targets[:, :2], change, atol=1e-6)
    np.testing.assert_array_equal(targets[:, 2], r[:7])


@pytest.mark.parametrize(
    ("lengths", "horizon", "enough"),
    [
        (
            (4, 1),
            4,
            False,
        ),  # too short for the time limit's window; nothing before the terminal row
        ((5, 1), 4, True),
        ((4, 2), 4, True),  # a terminal row is never followed by rewards
        ((1, 1, 1, 9), 4, False),  # the long one is held out
        ((7, 3, 6, 9), 4, True),
        ((1, 1), 1, False),
    ],
)
def test_episodes_too_short_for_the_horizon_are_refused(lengths, horizon, enough):
    data = toys.transitions(lengths)
    held = np.arange(len(data) - 9, len(data)) if 9 in lengths else np.zeros(0, int)
    split = Split(np.setdiff1d(np.arange(len(data)), held), held)
    ends = data.terminals | data.timeouts
    returns = naive_returns(data.rewards, ends, data.terminals, horizon)
    first = data.episode_bounds()[:, 0]
    known = np.setdiff1d(np.flatnonzero(~np.isnan(returns)), first)
    assert bool(len(np.intersect1d(known, split.train))) == enough
    if not enough:
        with pytest.raises(UserError, match=f"^--mbop_horizon: expected .* {horizon + 1} steps"):
            learning.rows_with_value(data, split, horizon)
        return
    found = learning.rows_with_value(data, split, horizon)
    for part, whole in zip(found, split, strict=True):
        np.testing.assert_array_equal(part, np.intersect1d(known, whole))
