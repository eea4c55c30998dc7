from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import toys

from mopp_tf.models import rows as mopp_rows
from mopp_tf.objectives import reward_of
from mopp_tf.planning import planner_reward

SCALE = mopp_rows.RewardScale(shift=1.0, scale=4.0)
TASK = toys.cart()
DATA = toys.transitions((40,) * 5)
ROWS = mopp_rows.prepare(TASK, DATA, SCALE)
VARIANCE = ROWS.rewards.astype(np.float64).var()


class Dynamics:
    """Two members that know the next state; one is off by `state` in it, both by `reward`."""

    def __init__(self, state=0.0, reward=0.0):
        self.state, self.reward = state, reward

    def bind(self):
        def predict(states, actions):
            x, v = tf.unstack(states, axis=1)
            after = tf.stack([x + toys.DT * v, v + toys.PUSH * actions[:, 0]], axis=1)
            paid = (toys.reward(states, actions, after) - SCALE.shift) / SCALE.scale
            whole = tf.concat([after, paid[:, None]], axis=1)
            off = tf.constant([self.state, self.state, 0.0], tf.float32)
            return tf.stack([whole + off, whole]) + [0.0, 0.0, self.reward]

        return predict

    def next_states(self, states, outputs):
        del states
        return outputs[..., :2]

    def rewards(self, outputs):
        return outputs[..., 2]


def of(dynamics, reward=None):
    own = reward_of(TASK, "v2") if reward is None else reward
    return planner_reward.errors(dynamics, task=TASK, rows=ROWS, scale=SCALE, reward=own)


def choice(dynamics, **arguments):
    known = {"task": TASK, "rows": ROWS, "scale": SCALE, "reward": reward_of(TASK, "v2")}
    return planner_reward.choose(dynamics, **known | arguments)


def test_what_is_missed_is_a_share_of_the_variance():
    assert of(Dynamics()) == pytest.approx((0.0, 0.0), abs=1e-10)
    of_models, of_task = of(Dynamics(reward=0.05))
    assert of_models == pytest.approx(0.05**2 / VARIANCE, rel=1e-4)
    assert of_task == pytest.approx(0.0, abs=1e-10)
    # 0.2 in the task's units are 0.05 in those of the models.
    _, of_task = of(Dynamics(), lambda s, a, n: toys.reward(s, a, n) + 0.2)
    assert of_task == pytest.approx(0.05**2 / VARIANCE, rel=1e-4)


def test_the_tasks_reward_is_paid_where_the_models_say_that_it_leads():
    # x' + 0.1 pays 0.1 more, 0.025 in the models' units; of the other member nothing is missed.
    of_models, of_task = of(Dynamics(state=0.1))
    assert of_models == pytest.approx(0.0, abs=1e-10)
    assert of_task == pytest.approx(0.5 * 0.025**2 / VARIANCE, rel=1e-3)


def test_the_models_reward_stays_unless_it_misses_a_hundredth_and_the_tasks_less():
    below, above = (float(np.sqrt(share * VARIANCE)) for share in (0.009, 0.011))
    assert choice(Dynamics(reward=below))["chosen"] == "models"
    found = choice(Dynamics(reward=above))
    assert found["chosen"] == "task"
    assert found["models_missed"] == pytest.approx(0.011, rel=1e-3)
    assert found["task_missed"] == pytest.approx(0.0, abs=1e-10)
    worse = choice(Dynamics(reward=above), reward=lambda s, a, n: toys.reward(s, a, n) + 5.0)
    assert worse["chosen"] == "models" and worse["task_missed"] > worse["models_missed"]


def test_without_a_reward_of_the_task_or_rows_there_is_no_choice():
    assert choice(Dynamics(reward=9.0), reward=None) == {"chosen": "models"}
    assert choice(Dynamics(reward=9.0), rows=ROWS.at(slice(0))) == {"chosen": "models"}
