import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import toys

from mopp_tf import algorithm
from mopp_tf.config import BehaviorConfig, ModelConfig, QConfig
from mopp_tf.models import fitted_q, rows, training
from mopp_tf.models.behavior import BehaviorModel
from offline_tf.datasets.formats.columns import from_columns
from offline_tf.models import critics
from offline_tf.numerics.holdout import Split
from offline_tf.numerics.standardize import Statistics
from offline_tf.run_folder.record import RunRecord

TASK = toys.cart()
MODEL = ModelConfig(
    encoder_hidden=(8,), head_hidden=(8,), batch_size=32, precision="float32", weight_decay=0.0
)
UNITS = rows.Normalizer(toys.identity(2), toys.identity(1), toys.identity(3))
GAMMA = 0.8


def chain(last="terminal", copies=8, seed=0):
    """States 0 -> 1 -> 2 -> end, at x = -1, 0, 1; rewards 1, 2, 4; the end is terminal or a timeout.

    After a timeout the state is 2 again, so that its value is 4 / (1 - gamma).
    """
    generator = np.random.default_rng(seed)
    x = np.array([-1.0, 0.0, 1.0], np.float32)
    states = np.stack([x, np.zeros(3, np.float32)], axis=1)
    after = states[[1, 2, 2]]
    ends = np.array([0.0, 0.0, 1.0], np.float32)

    def many(values):
        return np.concatenate([values] * copies)

    actions = generator.uniform(-1, 1, (3 * copies, 1)).astype(np.float32)
    following = np.roll(actions, -1, axis=0)
    has_next = many(ends == 0.0)
    following[~has_next] = 0.0
    return rows.Rows(
        many(states),
        actions,
        many(np.array([1.0, 2.0, 4.0], np.float32)),
        many(after),
        many(ends if last == "terminal" else 0.0 * ends),
        following,
        has_next,
        np.ones(3 * copies),
    )


def behavior(members=2):
    return BehaviorModel(TASK, MODEL, BehaviorConfig(behavior_members=members), UNITS, 0)


def fitted(tmp_path, table, steps=3000, **knobs):
    config = QConfig(
        q_hidden=(32,), q_steps=steps, discount=GAMMA, **({"target_rate": 0.05} | knobs)
    )
    q = critics.QFunction(UNITS.states, 1, config.q_hidden, 0)
    record = RunRecord.create_or_continue(tmp_path, "mopp", {})
    everything = np.arange(len(table.rewards))
    model = ModelConfig(batch_size=24, precision="float32", weight_decay=0.0, learning_rate=3e-3)
    report = fitted_q.fit(
        q,
        behavior=behavior(),
        rows=table,
        split=Split(everything, everything[:0]),
        knobs=model,
        config=config,
        seed=0,
        stage=record.stage("q_fit"),
    )
    return q, report


def test_bellman_target_by_hand():
    values = tf.constant([[10.0, 1.0], [20.0, -1.0]])
    found = critics.bellman_target(tf.constant([1.0, 2.0]), tf.constant([0.0, 1.0]), values, 0.5)
    np.testing.assert_allclose(found, [1.0 + 0.5 * 10.0, 2.0])
    found = critics.bellman_target(tf.constant([1.0, 2.0]), tf.constant([0.0, 0.0]), values, 0.5)
    np.testing.assert_allclose(found, [6.0, 1.5])


@pytest.mark.parametrize("actions", ["data", "behavior"])
@pytest.mark.parametrize("last", ["terminal", "timeout"])
@pytest.mark.parametrize("return_steps", [1, 2])
def test_a_chain_converges_to_the_linear_solution(tmp_path, last, actions, return_steps):
    table = chain(last)
    q, report = fitted(tmp_path, table, fqe_actions=actions, q_return_steps=return_steps)
    transition = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0.0 if last == "terminal" else 1.0]])
    exact = np.linalg.solve(np.eye(3) - GAMMA * transition, [1.0, 2.0, 4.0])
    found = q.bind()(tf.constant(table.states), tf.constant(table.actions)).numpy()
    np.testing.assert_allclose(
        found.reshape(2, -1, 3), np.broadcast_to(exact, (2, 8, 3)), rtol=0.06
    )
    assert abs(report["mean"] - exact.mean()) < 0.5
    assert report["gap"] < 0.5 and report["td_error"] < 0.2


@pytest.mark.parametrize("actions", ["data", "behavior"])
@pytest.mark.parametrize("return_steps", [1, 2])
def test_a_terminal_reward_counts_where_nobody_recorded_what_followed(
    tmp_path, actions, return_steps
):
    """D4RL v0's columns of the chain: values end with the reward of the terminal row."""
    table = chain("terminal")
    columns = {
        "observations": table.states,
        "actions": table.actions,
        "rewards": table.rewards,
        "terminals": table.terminals > 0.0,
    }
    data = from_columns(columns, "chain")
    unknown = rows.prepare(TASK, data, rows.RewardScale(0.0, 1.0))
    np.testing.assert_array_equal(unknown.next_known, unknown.has_next)
    q, report = fitted(tmp_path, unknown, fqe_actions=actions, q_return_steps=return_steps)
    exact = [1.0 + GAMMA * (2.0 + GAMMA * 4.0), 2.0 + GAMMA * 4.0, 4.0]
    found = q.bind()(tf.constant(unknown.states), tf.constant(unknown.actions)).numpy()
    np.testing.assert_allclose(
        found.reshape(2, -1, 3), np.broadcast_to(exact, (2, 8, 3)), rtol=0.06
    )
    assert np.isfinite(report["td_error"])


def test_an_export_holds_no_targets(tmp_path):
    """They matter to a fit alone, and a run that goes on after it does not have them."""
    zeros = np.zeros(2, np.float32)
    q = critics.QFunction(Statistics(zeros, zeros + 1), 1, (4,), 0)
    assert len(q.target_weights) == len(q.weights) == 2 * 2 * 2
    saved = tf.train.list_variables(tf.train.Checkpoint(q=q).write(str(tmp_path / "q")))
    values = [name for name, _ in saved if name.endswith("VARIABLE_VALUE")]
    assert len(values) == len(q.weights)


def test_targets_start_as_copies_and_move_by_their_rate(tmp_path):
    config = QConfig(q_hidden=(4,))
    q = critics.QFunction(UNITS.states, 1, config.q_hidden, 3)
    for slow, fast in zip(q.target_weights, q.weights, strict=True):
        np.testing.assert_array_equal(slow, fast)
    first, second = (n.trainable_variables[0].numpy() for n in q.networks)
    assert np.abs(first - second).max() > 0.01
    moved, _ = fitted(tmp_path, chain(), steps=1, target_rate=0.25)
    fresh = critics.QFunction(UNITS.states, 1, (32,), 0)
    # The targets move before the gradient step, when they are still equal to the networks.
    for slow, start in zip(moved.target_weights, fresh.weights, strict=True):
        np.testing.assert_array_equal(slow, start)
    assert np.abs(moved.weights[0].numpy() - fresh.weights[0].numpy()).max() > 1e-4


def test_targets_move_by_a_share_of_the_way():
    q = critics.QFunction(UNITS.states, 1, (4,), 3)
    start = [w.numpy() for w in q.target_weights]
    for weight in q.weights:
        weight.assign_add(tf.ones_like(weight))
    q.move_targets(0.25)
    for slow, before in zip(q.target_weights, start, strict=True):
        np.testing.assert_allclose(slow, before + 0.25, rtol=1e-6)
    q.move_targets(0.25)  # 0.25 + 0.25 * 0.75
    for slow, before in zip(q.target_weights, start, strict=True):
        np.testing.assert_allclose(slow, before + 0.4375, rtol=1e-6)


def test_only_a_state_that_is_not_known_is_replaced_by_the_one_before_it():
    states, after = np.zeros((4, 2), np.float32), np.ones((4, 2), np.float32)
    assert critics.states_to_value(states, after, np.ones(4)) is after
    after[1], after[3, 0] = np.nan, np.nan  # the last is known but for a sensor: a fault stays one
    found = critics.states_to_value(states, after, np.array([0.0, 1.0, 1.0, 1.0]))
    np.testing.assert_array_equal(found, [[1, 1], [0, 0], [1, 1], [np.nan, 1]])
    inside = critics.states_to_value(states, after, np.zeros(4))
    np.testing.assert_array_equal(inside, after)


def test_values_follow_the_networks_and_what_they_are_fitted_to_the_slow_ones():
    q = critics.QFunction(UNITS.states, 1, (), 3)  # Q_j = w_j . (x, v, a) + b_j
    for network, bias in zip([*q.networks, *q.targets], (1.0, 2.0, 30.0, 40.0), strict=True):
        weights = network.trainable_variables
        weights[0].assign([[1.0], [0.0], [10.0]])
        weights[1].assign([bias])
    columns = (
        [[0.5, 9.0], [0.25, 9.0]],  # states
        [[0.1], [0.2]],  # actions
        [2.0, 3.0],  # rewards
        [[-1.0, 9.0], [-2.0, 9.0]],  # next states
        [0.0, 1.0],  # terminals
        [0.5, 0.25],  # gamma^k
        [[-0.1], [-0.2]],  # next actions
    )
    batch = critics.Batch(*(tf.constant(column, tf.float32) for column in columns))
    squared, values = critics.errors(q, batch, tf.float32)
    np.testing.assert_allclose(values, [[2.5, 3.25], [3.5, 4.25]], rtol=1e-6)
    targets = np.array([2.0 + 0.5 * (30.0 - 1.0 - 1.0), 3.0])
    np.testing.assert_allclose(squared, np.square(values.numpy() - targets).mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize("actions", ["data", "behavior"])
def test_batches_hold_training_rows_and_what_follows_their_windows(tmp_path, monkeypatch, actions):
    """Two-step windows over some rows out of order: nothing of this is the identity."""
    table = chain("timeout", copies=4)
    numbers = np.arange(12, dtype=np.float32)
    table = table._replace(
        states=np.stack([numbers, -numbers], axis=1),
        next_states=np.stack([numbers + 100.0, numbers], axis=1),
        rewards=numbers + 1.0,
        terminals=(numbers == 11.0).astype(np.float32),
    )
    seen = []
    monkeypatch.setattr(
        fitted_q.fitted_q_evaluation.training_loop,
        "fit",
        lambda optimiser, **named: seen.append((optimiser, named["feed"], named["schedule"])),
    )
    train, held_out = np.array([7, 1, 10, 0, 9, 6]), np.array([3, 4, 5])
    record = RunRecord.create_or_continue(tmp_path, "mopp", {})
    q = critics.QFunction(UNITS.states, 1, (8,), 0)
    config = QConfig(q_hidden=(8,), discount=GAMMA, fqe_actions=actions, q_return_steps=2)
    model = behavior(members=1)
    fitted_q.fit(
        q,
        behavior=model,
        rows=table,
        split=Split(train, held_out),
        knobs=dataclasses.replace(MODEL, weight_decay=1e6),
        config=config,
        seed=0,
        stage=record.stage("q_fit"),
    )
    ((optimiser, feed, schedule),) = seen
    assert np.unique(schedule.block(0).rows).tolist() == list(range(len(train)))
    picked = np.array([2, 0, 5, 3, 1])  # positions among the training rows
    at = train[picked]
    last = window_ends(at)
    columns, positions = feed(0)(picked.reshape(1, 1, 5).astype(np.int32))
    batch = critics.Batch(*(tf.gather(column, positions[0, 0]).numpy() for column in columns))
    np.testing.assert_array_equal(batch.states, table.states[at])
    np.testing.assert_array_equal(batch.actions, table.actions[at])
    expected = table.rewards[at] + np.where(last > at, GAMMA * table.rewards[last], 0.0)
    np.testing.assert_allclose(batch.rewards, expected, rtol=1e-6)
    np.testing.assert_array_equal(batch.next_states, table.next_states[last])
    np.testing.assert_array_equal(batch.terminals, [1.0, 0.0, 0.0, 0.0, 0.0])
    expected = np.where(last > at, GAMMA**2, GAMMA)
    np.testing.assert_allclose(batch.discounts, expected, rtol=1e-6)
    if actions == "data":
        inside = table.has_next[last]
        assert inside.tolist() == [False, False, True, True, False]
        logged = table.next_actions[last][inside]
        np.testing.assert_array_equal(batch.next_actions[inside], logged)
    else:
        drawn = fitted_q.next_actions(
            model, rows=table, kind="behavior", seed=0, number=0, at=window_ends(train)
        )
        np.testing.assert_array_equal(batch.next_actions, drawn[picked])

    # A weight decay that outdoes the loss: Adam's first step takes the rate off each kernel's size.
    before = [w.numpy() for w in q.weights]
    optimiser.run(columns, positions, tf.constant([1e-3]))
    _, *firsts = optimiser.adam.moments[: 1 + len(before)]
    for weight, first, old in zip(q.weights, firsts, before, strict=True):
        if weight.shape.rank == 2:
            np.testing.assert_allclose(weight, old - 1e-3 * np.sign(old), atol=1e-6)
            # Adam forgets the factor: its first moment has (1 - 0.9) of d/dw of decay * w^2.
            np.testing.assert_allclose(first, 0.1 * 2.0 * 1e6 * old, rtol=1e-3, atol=10.0)
    # Biases do not decay: they started at 0 and follow the loss.
    assert any(np.abs(w.numpy()).max() > 5e-4 for w in q.weights if w.shape.rank == 1)


def window_ends(at):
    """The last row of two-step windows where every third row ends an episode."""
    return np.where(at % 3 == 2, at, at + 1)


def test_logged_next_actions_are_kept_and_only_cut_rows_get_a_draw():
    table = chain("timeout")
    found = fitted_q.next_actions(behavior(), rows=table, kind="data", seed=0, number=0)
    np.testing.assert_array_equal(found[table.has_next], table.next_actions[table.has_next])
    drawn = found[~table.has_next]
    assert (drawn != 0.0).all() and len(np.unique(drawn)) == len(drawn)
    terminal = chain("terminal")
    found = fitted_q.next_actions(behavior(), rows=terminal, kind="data", seed=0, number=0)
    np.testing.assert_array_equal(found, terminal.next_actions)


def test_drawn_next_actions_come_from_the_behaviour_at_the_next_state():
    model = behavior(members=1)
    for variable in model.weights:
        variable.assign(tf.zeros_like(variable))
    # One head: mean 2 * x', smallest spread. Latent unit 0 passes relu(x' + 3) - 3 through.
    encoder, (head,) = model.members[0].encoder, model.members[0].heads
    encoder.layers[0].kernel.value.scatter_nd_update([[0, 0]], [1.0])
    encoder.layers[0].bias.value.scatter_nd_update([[0]], [3.0])
    encoder.layers[1].kernel.value.scatter_nd_update([[0, 0]], [1.0])
    encoder.layers[1].bias.value.scatter_nd_update([[0]], [0.0])
    head.layers[0].kernel.value.scatter_nd_update([[0, 0]], [1.0])
    head.layers[1].kernel.value.scatter_nd_update([[0, 0]], [2.0])
    head.layers[1].bias.value.assign([-6.0, -20.0])
    table = chain()
    found = fitted_q.next_actions(model, rows=table, kind="behavior", seed=0, number=0)
    np.testing.assert_allclose(found[:, 0], np.tanh(2.0 * table.next_states[:, 0]), atol=0.03)
    assert np.abs(found[:, 0] - np.tanh(2.0 * table.next_states[:, 0])).max() > 1e-4


def test_draws_repeat_under_a_seed_and_differ_between_numbers():
    table, model = chain(), behavior()
    first, again, other, third = (
        fitted_q.next_actions(model, rows=table, kind="behavior", seed=seed, number=number)
        for seed, number in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9 and (first != third).mean() > 0.9


def test_a_fit_that_goes_on_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "STEPS_PER_LOOK", 10)
    monkeypatch.setattr(fitted_q, "_LOOKS_PER_DRAW", 2)
    whole, _ = fitted(tmp_path / "whole", chain("timeout"), steps=50, fqe_actions="behavior")

    class Killed(Exception):
        pass

    look = []

    def dying(*arguments, **named):
        look.append(1)
        if len(look) == 3:
            raise Killed
        return original(*arguments, **named)

    from offline_tf.run_folder.stage import Stage

    original = Stage.log
    monkeypatch.setattr(Stage, "log", dying)
    with pytest.raises(Killed):
        fitted(tmp_path / "cut", chain("timeout"), steps=50, fqe_actions="behavior")
    resumed, _ = fitted(tmp_path / "cut", chain("timeout"), steps=50, fqe_actions="behavior")
    for a, b in zip(
        [*whole.weights, *whole.target_weights],
        [*resumed.weights, *resumed.target_weights],
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_states_are_normalised_and_actions_are_not():
    units = UNITS._replace(
        states=Statistics(np.array([1.0, 2.0], np.float32), np.array([2.0, 4.0], np.float32))
    )
    q = critics.QFunction(units.states, 1, (4,), 0)
    found = q.inputs(tf.constant([[3.0, 10.0]]), tf.constant([[0.5]]))
    np.testing.assert_allclose(found, [[1.0, 2.0, 0.5]])


@pytest.mark.parametrize("return_steps", [1, 4])
def test_time_constants_say_what_a_short_fit_leaves_out(return_steps):
    """A constant reward: the target follows a network that is always one exact backup ahead."""
    config = QConfig(q_steps=300, target_rate=0.02, discount=0.9, q_return_steps=return_steps)
    backup = 0.9**return_steps
    fixed = 1.0 / (1.0 - 0.9)
    target = 0.0
    for _ in range(config.q_steps):
        target += config.target_rate * (fixed * (1.0 - backup) + backup * target - target)
    left_out = np.exp(-algorithm.time_constants(config))
    np.testing.assert_allclose(1.0 - target / fixed, left_out, rtol=0.1)
