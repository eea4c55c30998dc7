import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import toys

from mopp_tf import objectives
from mopp_tf.models.rows import RewardScale
from morel_tf.planning import pessimistic_mdp
from offline_tf import tasks
from offline_tf.models import compilation


def looping(next_states):
    """|x'| > 3, counted up in a loop over tensors."""
    bound = tf.zeros([])
    for step in tf.range(4):
        if step > 0:
            bound += 1.0
    return abs(next_states[..., 0]) > bound


def paying(states, actions, next_states, physics):
    return tf.cast(looping(next_states), tf.float32)


STATES = tf.constant([[2.0, 0.0], [4.0, 0.0]])


def test_python_that_depends_on_a_tensor_is_refused_but_for_a_tasks_own():
    plain = compilation.function(lambda s: looping(s))
    with pytest.raises(tf.errors.OperatorNotAllowedInGraphError):
        plain(STATES)
    found = compilation.function(lambda s: compilation.of_task(looping)(s))(STATES)
    np.testing.assert_array_equal(found, [False, True])


def test_our_own_functions_and_eager_calls_are_left_alone():
    own = tasks.get("hopper").termination

    @compilation.function
    def inside(s):
        assert compilation.of_task(own) is own and compilation.of_task(looping) is not looping
        return s

    inside(STATES)
    assert compilation.of_task(looping) is looping


def test_the_pessimistic_mdp_takes_a_tasks_loops():
    task = dataclasses.replace(toys.cart(), reward=paying, termination=looping)
    pmdp = toys.pessimistic(task, toys.hinged_ensemble(task))

    ensemble, actions = pmdp.ensemble, tf.zeros([2, 1])
    halted, member = tf.zeros([2], bool), tf.zeros([2], tf.int32)

    def step(states):
        outputs = ensemble.bind()(states, actions)
        return pessimistic_mdp.step(
            pmdp,
            outputs=outputs,
            member=member,
            states=states,
            actions=actions,
            halted=halted,
            noise=None,
        )

    found = compilation.function(step)(STATES)
    np.testing.assert_array_equal(found.rewards, [0.0, 1.0])
    for a, b in zip(tf.nest.flatten(step(STATES)), tf.nest.flatten(found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_planner_pays_by_a_tasks_loops():
    task = dataclasses.replace(toys.cart(), reward=paying)
    own = objectives.of_task(task, RewardScale(0.0, 1.0), objectives.reward_of(task, "v2"))
    found = compilation.function(own.own)(STATES, tf.zeros([2, 1]), STATES, tf.ones([2]))
    np.testing.assert_array_equal(found, [0.0, 1.0])


def test_a_graph_for_any_length_knows_none_of_them_from_its_first_call_on():
    seen = []

    def call(parts, rows, key):
        seen.append(
            ([part.shape.as_list() for part in parts], rows.shape.as_list(), key.shape.rank)
        )
        return tf.reduce_sum(parts[0]) + tf.cast(tf.reduce_sum(rows), tf.float32) + key

    graph = compilation.ForAnyLength(call, free={1: (0, 2)})
    for length, steps, size in ((5, 2, 4), (7, 1, 4), (1, 2, 3), (0, 0, 0)):
        parts = (tf.ones([length, 3]), tf.ones([length]))
        rows = np.ones((steps, 2, size), np.int32)
        assert graph(parts, rows, tf.constant(1.0)) == 3.0 * length + 2.0 * steps * size + 1.0
    assert seen == [([[None, 3], [None]], [None, 2, None], 0)]
    graph((tf.ones([2, 3]), tf.ones([2])), np.ones((1, 1, 4), np.int32), tf.constant(1.0))
    assert len(seen) == 2 and seen[1][1] == [None, 1, None]
