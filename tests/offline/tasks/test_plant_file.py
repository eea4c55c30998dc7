from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from offline_tf.tasks import closed_form
from offline_tf.tasks.plants import plant_file
from offline_tf.types import UserError

PLANT = {
    "name": "tank",
    "step_seconds": 5.0,
    "history": 3,
    "log": {"time": "t"},
    "observations": [{"name": "level", "high": 2.0}, {"name": "wanted", "given": True}],
    "actions": [{"name": "valve", "low": 0.0, "high": 1.0, "max_rate": 0.02}],
    "reward": {"expression": "-abs(level - wanted)"},
    "limits": {"price": 10.0},
}
# level, wanted; then @-1: level, wanted, valve; then @-2.
STATE = np.array([[1.0, 1.5, 0.9, 1.4, 0.3, 0.8, 1.3, 0.2]], np.float32)


def task(**changes):
    content = {**PLANT, **changes}
    return plant_file.task_of({k: v for k, v in content.items() if v is not None}, "plant.toml")


def test_the_past_becomes_what_it_was():
    """What NAME@-2 will be is NAME@-1 now; a set point stays; the level is the plant's."""
    made = task()
    assert made.becomes == (-1, 1, 0, 1, 8, 2, 3, 4) and made.given == (1,)
    assert made.action_before_indices == (4,)
    predicted = np.full((2, 1, 8), 7.0, np.float32)  # of two models
    found = closed_form.with_the_past(made, STATE, np.array([[0.35]], np.float32), predicted)
    assert found.shape == (2, 1, 8)
    np.testing.assert_allclose(found[0, 0], [7, 1.5, 1.0, 1.5, 0.35, 0.9, 1.4, 0.3])
    in_units = closed_form.with_the_past_in_units(
        made, STATE, np.array([[-0.3]], np.float32), predicted
    )
    np.testing.assert_allclose(in_units, found)


@pytest.mark.parametrize(
    ("asked", "done"), [(0.35, 0.35), (0.9, 0.4), (-5.0, 0.2), (0.4, 0.4), (0.2, 0.2)]
)
def test_a_valve_moves_two_hundredths_a_second_at_most(asked, done):
    """It stood at 0.3; a step has five seconds."""
    found = closed_form.executable(task(), tf.constant(STATE), tf.constant([[asked]]))
    np.testing.assert_allclose(found, [[done]], rtol=1e-6)
    units = closed_form.executable_in_units(
        task(), STATE, np.array([[2.0 * asked - 1.0]], np.float32)
    )
    np.testing.assert_allclose(units, [[2.0 * done - 1.0]], atol=1e-6)


def test_without_rates_and_past_a_step_is_the_models():
    made = task(
        history=None,
        actions=[{"name": "valve", "low": 0, "high": 1}],
        observations=[{"name": "level"}, {"name": "wanted"}],
        limits=None,
    )
    assert made.becomes == () and made.action_change is None and made.violation is None
    found = closed_form.executable(made, STATE[:, :2], np.array([[1.7]], np.float32))
    np.testing.assert_allclose(found, [[1.0]])
    predicted = np.full((1, 2), 7.0, np.float32)
    assert closed_form.with_the_past(made, STATE[:, :2], [[0.0]], predicted) is predicted


@pytest.mark.parametrize(
    ("level", "violation"), [(1.999, 0.0), (2.0, 0.0), (2.2, 1.1), (3.0, 1.5), (-9.0, 0.0)]
)
def test_a_broken_limit_counts_once_and_by_how_much(level, violation):
    """Above 2 m: one, and what lies above as a share of 2 m; the reward pays ten for each."""
    made = task()
    after = np.array([[level, 0.5]], np.float32)
    np.testing.assert_allclose(made.violation(after), [violation], atol=1e-6)
    paid = made.reward(STATE, np.zeros((1, 1), np.float32), _padded(after), "")
    np.testing.assert_allclose(paid, [-abs(level - 0.5) - 10.0 * violation], rtol=1e-5)


def _padded(after):
    return np.concatenate([after, np.zeros((1, 6), np.float32)], axis=1)


def test_a_range_gives_the_unit_of_what_lies_beyond():
    made = task(observations=[{"name": "level", "low": 1.0, "high": 3.0}, {"name": "wanted"}])
    after = np.array([[0.5, 0.0], [3.2, 0.0]], np.float32)
    np.testing.assert_allclose(made.violation(after), [1.25, 1.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"history": 1}, "max_rate needs the action of the step before; set history = 2 or more"),
        ({"limits": None}, "expected a price under [limits]"),
        ({"observations": [{"name": "level"}, {"name": "wanted"}]}, "expected a price under"),
        ({"limits": {"price": 0}}, "[limits] price: expected more than 0, got 0"),
        (
            {"observations": [{"name": "level", "low": 2.0, "high": 1.0}, {"name": "wanted"}]},
            "expected low below high of each of [[observations]]",
        ),
        (
            {"actions": [{"name": "valve", "low": 0, "high": 1, "max_rate": -1}]},
            "max_rate: expected more than 0, got -1",
        ),
        ({"observations": [{"name": "level", "given": 1}]}, "expected true or false for given"),
    ],
)
def test_what_does_not_fit_is_told(changes, words):
    with pytest.raises(UserError) as error:
        task(**changes)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_the_time_of_day_is_given_too():
    made = task(time_of_day=True)
    assert made.observation_names[:4] == ("level", "wanted", *plant_file.TIME_OF_DAY)
    assert made.given == (1, 2, 3) and made.becomes[:4] == (-1, 1, 2, 3)
