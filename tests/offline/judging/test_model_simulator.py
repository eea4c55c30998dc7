from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import toys

from offline_tf.judging.model_simulator import Models, ModelSimulator
from offline_tf.models.given_signals import GivenSignals


def simulator(threshold=np.inf, halted_reward=-2.0, gains=(0.0, 1.0), task=None, starts=((0, 1),)):
    task = task or toys.cart()
    ensemble = toys.hinged_ensemble(task, gains)
    models = Models(task, "v2", ensemble, np.ones(2, np.float32), threshold, halted_reward)
    return ModelSimulator(models, np.array(starts, np.float32))


def test_each_model_drives_its_own_episodes():
    """At x = 2 the second model's x' is one too large; rewards are the task's."""
    made = simulator(starts=((2.0, 1.0), (0.0, 1.0)))
    rewards, over = made.step(np.full((4, 1), 0.5, np.float32))
    exact = [[2.1, 1.25], [0.1, 1.25], [3.1, 1.25], [0.1, 1.25]]
    np.testing.assert_allclose(made.observations(), exact, rtol=1e-6)
    expected = 1.0 + np.array(exact)[:, 0] + 0.3 * 1.0 - 0.1 * 0.25
    np.testing.assert_allclose(made.expected, expected, rtol=1e-6)
    # Paid is the least that any model predicts: that of the first one.
    np.testing.assert_allclose(rewards, np.tile(expected[:2], 2), rtol=1e-6)
    assert not over.any() and not made.unknown.any()
    assert made.elapsed.tolist() == [1] * 4


def test_halt_pays_for_all_steps_that_are_left():
    made = simulator(threshold=0.5, starts=((2.0, 1.0), (0.0, 1.0)))
    made.elapsed += 10  # of 50
    rewards, over = made.step(np.zeros((4, 1), np.float32))
    assert over.tolist() == made.unknown.tolist() == [True, False, True, False]
    np.testing.assert_allclose(rewards[[0, 2]], -2.0 * 40)
    np.testing.assert_array_equal(made.observations()[0], [2.0, 1.0])


def test_halt_pays_what_is_said_of_each_step():
    task = toys.cart()
    models = Models(
        task, "v2", toys.hinged_ensemble(task, (0.0, 1.0)), np.ones(2, np.float32), 0.5, -2.0
    )
    to_come = np.arange(50.0, 0.0, -1.0)[:, None]
    starts = np.array([[2.0, 1.0], [2.0, 1.0]], np.float32)
    for paid, expected in (
        (to_come, [40.0, 40.0, 40.0, 40.0]),
        (to_come * [1.0, 2.0], [40.0, 80.0, 40.0, 80.0]),  # by start; two models
    ):
        made = ModelSimulator(models, starts, paid)
        made.elapsed += 10
        rewards, over = made.step(np.zeros((4, 1), np.float32))
        assert over.all() and rewards.tolist() == made.expected.tolist() == expected


def test_a_fall_ends_without_halt():
    made = simulator(task=toys.cart(bound=1.0), starts=((0.99, 1.0),))
    _, over = made.step(np.zeros((2, 1), np.float32))
    assert over.all() and not made.unknown.any()


@pytest.mark.parametrize("action", [np.nan, np.inf])
def test_what_is_no_number_is_halt(action):
    made = simulator()
    rewards, over = made.step(np.full((2, 1), action, np.float32))
    if np.isnan(action):
        assert made.unknown.all()
    assert np.isfinite(rewards).all() and np.isfinite(made.observations()).all()
    assert over.all() or not made.unknown.any()


def test_policies_see_clipped_velocities_and_models_do_not():
    made = simulator(task=toys.cart(limit=2.0), starts=((0.0, 3.0),))
    np.testing.assert_allclose(made.observations(), [[0.0, 2.0]] * 2)
    made.step(np.zeros((2, 1), np.float32))
    np.testing.assert_allclose(made.observations()[:, 0], 0.3, rtol=1e-6)


def test_a_reset_goes_back_to_the_own_start():
    made = simulator(starts=((0.0, 1.0), (0.5, 0.0)))
    made.step(np.ones((4, 1), np.float32))
    made.reset(np.random.default_rng(0), np.array([False, True, False, False]))
    assert made.elapsed.tolist() == [1, 0, 1, 1]
    np.testing.assert_array_equal(made.observations()[1], [0.5, 0.0])


def test_broken_limits_are_counted_until_halt():
    """Beyond x = 1 a limit is broken; an episode that meets HALT breaks none."""
    task = dataclasses.replace(toys.cart(), violation=lambda after: tf.nn.relu(after[:, 0] - 1.0))
    made = simulator(task=task, starts=((0.5, 1.0), (2.0, 1.0)))
    made.step(np.zeros((4, 1), np.float32))
    assert made.broken.tolist() == [False, True, False, True]
    halting = simulator(task=task, threshold=0.5, starts=((0.5, 1.0), (2.0, 1.0)))
    halting.step(np.zeros((4, 1), np.float32))
    assert halting.unknown.tolist() == [False, True, False, True] and not halting.broken.any()


def test_set_points_follow_the_log_from_the_row_of_the_start():
    task = dataclasses.replace(toys.cart(), given=(1,), becomes=(-1, 1))
    given = GivenSignals((1,), np.array([[0.1], [0.2], [0.3]], np.float32), np.array([1, 2, 2]))
    models = simulator(task=task)._models._replace(given=given)
    made = ModelSimulator(models, np.array([[0.0, 0.1], [0.0, 0.2]], np.float32), rows=[0, 1])
    seen = []
    for _ in range(3):
        made.step(np.zeros((4, 1), np.float32))
        seen.append(made.observations()[:, 1].tolist())
    np.testing.assert_allclose(seen, [[0.2, 0.3] * 2, [0.3, 0.3] * 2, [0.3, 0.3] * 2])
    made.reset(np.random.default_rng(0))
    made.step(np.zeros((4, 1), np.float32))
    np.testing.assert_allclose(made.observations()[:, 1], [0.2, 0.3] * 2)
