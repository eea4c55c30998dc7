"""Fitted Q evaluation of a policy, against values that a loop over the true cart gives."""

import numpy as np
import pytest
import toys

from morel_tf.experiment import evaluation
from offline_tf.models import critics
from offline_tf.numerics import holdout
from offline_tf.policies import fitted_value
from offline_tf.policies.gaussian import NumpyPolicy

TASK = toys.cart()
GAMMA = 0.8
RATE = fitted_value._TARGET_RATE


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Smaller networks for a shorter time, at a higher rate."""
    monkeypatch.setattr(fitted_value, "_HIDDEN", (64, 64))
    monkeypatch.setattr(fitted_value, "_BATCH", 64)
    monkeypatch.setattr(fitted_value, "_TARGET_RATE", 0.1)


def pushing(force, damping=0.0):
    """A policy: force - damping * v."""
    layer = (np.array([[0.0], [-damping]], np.float32), np.array([force], np.float32))
    return NumpyPolicy(toys.plain_units(2, 1), (layer,), np.zeros(1, np.float32))


def true_value(starts, policy, steps=60):
    """Discounted rewards of the cart without an end."""
    states, total = starts.astype(np.float64), np.zeros(len(starts))
    for step in range(steps):
        actions = policy.mean(states).clip(-1.0, 1.0)
        after = states + toys.change(states, actions)
        total += GAMMA**step * toys.reward(states, actions, after)
        states = after
    return total.mean()


def test_a_policy_gets_its_true_value_and_not_the_datas(record):
    # Ends are timeouts, so values go on.
    data = toys.transitions((20,) * 400)
    data.terminals[:] = False
    data.timeouts[19::20] = True
    policy = pushing(0.6, 0.5)  # towards a speed of 1.2
    arguments = {"policy": policy, "task": TASK, "data": data, "discount": GAMMA, "seed": 0}
    arguments["stage"] = record.stage("fqe")
    found = fitted_value.fit_or_load(**arguments, steps=2000)
    exact = true_value(data.observations[::20], policy)
    assert abs(found["fqe_value"] - exact) < 0.3
    # Neither the value of doing 0.6 for ever, nor of what the data did.
    assert abs(true_value(data.observations[::20], pushing(0.6)) - exact) > 1.0
    assert found["data_value"] < exact - 1.0 and found["fqe_gap"] < 0.2
    assert fitted_value.fit_or_load(**arguments) == found


def test_values_have_settled_at_the_discount_that_runs_use(record):
    """Reward 1 for ever is worth 1 / 0.03; steps lead into the data, so nothing is extrapolated."""
    data = toys.transitions((20,) * 20)
    data.terminals[:], data.rewards[:] = (
        False,
        1.0 + 0.01 * np.random.default_rng(0).normal(size=400),
    )
    data.timeouts[19::20] = True
    data.next_observations[:] = np.random.default_rng(1).permutation(data.observations)
    arguments = {"policy": pushing(0.0), "task": TASK, "data": data, "discount": 0.97, "seed": 0}
    arguments["stage"] = record.stage("fqe")
    assert RATE * fitted_value._STEPS * (1 - evaluation._FQE_DISCOUNT) >= 10
    assert evaluation._FQE_DISCOUNT == 0.97
    found = fitted_value.fit_or_load(**arguments, steps=3000)
    np.testing.assert_allclose(found["fqe_value"], 1 / 0.03, rtol=0.05)
    assert found["data_value"] < 16.0  # up to the ends of twenty steps


def test_beyond_the_data_a_value_is_that_of_its_edge(record, monkeypatch):
    """One observation far out: what is fitted sees it at the edge of the others."""
    data = toys.transitions((20,) * 4)
    data.next_observations[25] = [100.0, -100.0]
    seen = []
    monkeypatch.setattr(
        fitted_value.fitted_q_evaluation, "fit", lambda q, feed, **_: seen.append(feed)
    )
    fitted_value.fit_or_load(
        pushing(0.0),
        task=TASK,
        data=data,
        discount=GAMMA,
        seed=0,
        stage=record.stage("fqe"),
        steps=1,
    )
    columns, _ = seen[0](0)(np.zeros((1, 1, 1), np.int32))
    split = holdout.split_episodes(data.episode_bounds(), fitted_value._HOLDOUT_SHARE, 0)
    assert 25 in split.train
    least, largest = data.observations.min(axis=0), data.observations.max(axis=0)
    expected = np.clip(data.next_observations[split.train], least, largest)
    np.testing.assert_array_equal(critics.Batch(*columns).next_states, expected)
    assert np.abs(expected - data.next_observations[split.train]).max() > 90.0


def test_a_value_is_the_same_where_nobody_recorded_what_followed_a_terminal_row(tmp_path):
    data = toys.transitions((5,) * 40)
    found = [
        fitted_value.fit_or_load(
            pushing(0.3),
            task=TASK,
            data=rows,
            discount=GAMMA,
            seed=0,
            stage=toys.record(tmp_path / name).stage("fqe"),
            steps=50,
        )
        for name, rows in (("known", data), ("unknown", toys.unrecorded(data)))
    ]
    assert found[0] == found[1] and np.isfinite(found[0]["fqe_value"])


@pytest.mark.parametrize("is_known", [True, False])
def test_nothing_follows_a_terminal_state(record, is_known):
    data = toys.transitions((1,) * 400)
    data.terminals[:], data.timeouts[:] = True, False
    data = data if is_known else toys.unrecorded(data)
    found = fitted_value.fit_or_load(
        pushing(0.0),
        task=TASK,
        data=data,
        discount=GAMMA,
        seed=0,
        stage=record.stage("fqe"),
        steps=1500,
    )
    idle = data.observations + toys.change(data.observations, np.zeros((400, 1)))
    expected = toys.reward(data.observations, np.zeros((400, 1)), idle).mean()
    np.testing.assert_allclose(found["fqe_value"], expected, atol=0.05)
    np.testing.assert_allclose(found["data_value"], data.rewards.mean(), rtol=1e-6)


def test_discounted_returns_by_hand():
    data = toys.transitions((2, 3))
    r = data.rewards.astype(np.float64) - 1.0
    expected = (r[0] + 0.5 * r[1] + r[2] + 0.5 * r[3] + 0.25 * r[4]) / 2
    found = fitted_value.discounted_returns(data, data.episode_bounds(), 0.5, shift=1.0)
    np.testing.assert_allclose(found, expected)
