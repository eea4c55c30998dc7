"""Dynamics of tasks that say themselves what becomes of the past."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
import toys

from mopp_tf.config import DynamicsConfig, ModelConfig
from mopp_tf.models import dynamics
from mopp_tf.models.rows import Normalizer, Rows
from offline_tf.numerics.standardize import Statistics

CART = toys.cart()
SMALL = ModelConfig(encoder_hidden=(8,), head_hidden=(4,), latent_dim=2)


def model(task):
    def ones(width):
        return Statistics(np.zeros(width, np.float32), np.full(width, 2.0, np.float32))

    return dynamics.DynamicsModel(
        task,
        model=SMALL,
        config=DynamicsConfig(dynamics_members=3),
        normalizer=Normalizer(ones(2), ones(1), ones(3)),
        change_scale=np.ones(3, np.float32),
        seed=0,
    )


def test_only_what_is_unknown_is_predicted():
    """The second signal is given: two outputs are left, the first signal and the reward."""
    made = model(dataclasses.replace(CART, becomes=(-1, 1)))
    assert made.predicted.tolist() == [0, 2]
    states, actions = tf.constant([[0.5, 7.0], [1.0, -7.0]]), tf.constant([[0.1], [0.2]])
    outputs = made.bind()(states, actions)
    assert outputs.shape == (3, 2, 3)
    np.testing.assert_array_equal(outputs[:, :, 1], 0.0)
    assert (outputs.numpy()[:, :, [0, 2]] != 0).mean() > 0.5
    following = made.next_states(states, outputs).numpy()
    np.testing.assert_allclose(following[:, :, 0], states[:, 0] + 2 * outputs[:, :, 0])
    np.testing.assert_array_equal(following[:, :, 1], np.tile(states[:, 1], (3, 1)))
    spread = made.std(states, actions, tf.constant([0, 1])).numpy()
    assert spread.shape == (3, 2, 2) and (spread[:, :, 0] > 0).all()
    # Members that differ in nothing else do not disagree about what is told.
    first, last = outputs.numpy()[:1, :, :1], outputs.numpy()[:, :, 1:2]
    alike = np.concatenate([np.tile(first, (3, 1, 1)), last, np.zeros((3, 2, 1))], axis=2)
    np.testing.assert_array_equal(made.uncertainty(tf.constant(alike, tf.float32), "delta"), 0.0)


def test_targets_are_of_the_predicted_columns():
    made = model(dataclasses.replace(CART, becomes=(-1, 1)))
    flags = np.array([True, False])
    table = Rows(
        states=np.array([[0.0, 5.0], [1.0, 5.0]], np.float32),
        actions=np.zeros((2, 1), np.float32),
        rewards=np.array([4.0, 6.0], np.float32),
        next_states=np.array([[1.0, 9.0], [3.0, 9.0]], np.float32),
        terminals=np.zeros(2, np.float32),
        next_actions=np.zeros((2, 1), np.float32),
        has_next=flags,
        weights=np.ones(2),
    )
    units = Normalizer(*(Statistics(np.zeros(n), np.ones(n)) for n in (2, 1, 3)))
    _, targets = dynamics.gather(made, table, "delta", units, np.arange(2))
    np.testing.assert_allclose(targets, [[1.0, 4.0], [2.0, 6.0]])


def test_without_a_past_all_is_predicted():
    assert model(CART).predicted.tolist() == [0, 1, 2]
