"""The error of models over several steps, on a walk whose noise hides every single step."""

import dataclasses

import numpy as np
import pytest
import toys

from offline_tf.judging import model_error
from offline_tf.numerics.holdout import Split


class Known:
    """Models of one member: the position moves by the action, and nothing else is known."""

    def __init__(self, task, slope):
        self.mask = np.ones(task.state_dim, np.float32)
        self._slope = slope

    def bind(self):
        return lambda s, a: (s, a)

    def means(self, outputs):
        return outputs

    def next_states(self, states, outputs):
        _, actions = outputs
        return states[None] + self._slope * actions[None, :, :1]


def data(noise):
    """Twenty episodes of fifty steps, the action a constant of each; [N, 1] columns."""
    rng = np.random.default_rng(0)
    speed = np.repeat(rng.normal(size=20), 50)[:, None].astype(np.float32)
    steps = np.tile(np.arange(50), 20)[:, None]
    seen = speed * steps + noise * rng.normal(size=(1000, 1))
    after = speed * (steps + 1) + noise * rng.normal(size=(1000, 1))
    bounds = np.arange(0, 1000, 50)[:, None] + [0, 50]
    return seen.astype(np.float32), speed, after.astype(np.float32), bounds


def error_of(slope, noise, rows=None):
    cart = toys.cart()
    task = dataclasses.replace(
        cart,
        observation_names=("position",),
        action_names=("speed",),
        action_low=np.full(1, -9.0, np.float32),
        action_high=np.full(1, 9.0, np.float32),
    )
    states, actions, after, bounds = data(noise)
    rows = np.arange(1000) if rows is None else rows
    return model_error.over_steps(
        Known(task, slope),
        task=task,
        states=states,
        actions=actions,
        next_states=after,
        bounds=bounds,
        split=Split(np.arange(0), rows),
    )


def test_true_models_have_the_error_of_the_noise_alone():
    assert error_of(1.0, 0.0) == pytest.approx(0.0, abs=1e-6)
    # After ten steps the change has the variance 100 v + 2 n^2, the error 2 n^2; v is that of speeds.
    v = data(0.0)[1][::50].var()
    assert error_of(1.0, 2.0) == pytest.approx(8.0 / (100.0 * v + 8.0), rel=0.15)


def test_models_that_predict_no_change_have_an_error_of_one():
    states, _, after, _ = data(0.0)
    found = error_of(0.0, 0.0)
    speeds = (after - states)[::50]
    assert found == pytest.approx(1.0 + speeds.mean() ** 2 / speeds.var(), rel=0.05)


def test_without_whole_stretches_there_is_no_number():
    assert error_of(1.0, 0.0, rows=np.arange(0, 1000, 2)) is None
