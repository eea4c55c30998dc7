from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import toys

from offline_tf.config.judge_config import JudgeConfig
from offline_tf.judging import judge as judging
from offline_tf.judging.judge import Judge, Judgement
from offline_tf.judging.model_simulator import Models
from offline_tf.types import UserError

TASK = toys.cart()
SMALL = JudgeConfig(judge_members=2, judge_hidden=(16,), judge_steps=300, judge_starts=4)


def toy_judge(gains=(0.0, 1.0), threshold=np.inf, starts=((0, 0), (0.5, 0))):
    ensemble = toys.hinged_ensemble(TASK, gains)
    models = Models(TASK, "v2", ensemble, np.ones(2, np.float32), threshold, -1.0)
    return Judge(models, np.array(starts, np.float32))


def test_the_promise_is_a_bound_for_one_more_model():
    returns = np.array([[10.0, 14.0], [20.0, 20.0]])
    halted = np.array([[True, False], [False, False]])
    judged = Judgement(returns + 1.0, returns, np.full((2, 2), 5), halted)
    # Means 12 and 20 of the models, 15 and 17 of the starts; two models leave one degree of freedom.
    promise = 16.0 - 6.314 * np.sqrt(32.0 * 1.5 + 2.0 / 2)
    assert judged.promise == pytest.approx(promise)
    assert judged.expected == 17.0
    assert judged.numbers() == pytest.approx(
        {
            "promise": promise,
            "expected": 17.0,
            "models_apart": 8.0,
            "halted_share": 0.25,
            "length": 5.0,
        }
    )


def test_returns_are_those_of_a_loop_by_hand():
    """One model that is exact: the cart pushed by its policy, summed in float64."""
    policy = toys.linear_policy(np.array([[-0.3], [-0.2]]), [0.1]).numpy()
    judged = toy_judge(gains=(0.0, 0.0)).policy(policy)
    for start, found in zip(((0, 0), (0.5, 0)), judged.returns[0], strict=True):
        state, total = np.array(start, np.float64), 0.0
        for _ in range(TASK.max_episode_steps):
            action = TASK.clip_actions(policy.mean(state[None].astype(np.float32)))[0]
            after = state + toys.change(state, action)
            total += toys.reward(state, action, after)
            state = after
        assert found == pytest.approx(total, rel=1e-5)
    np.testing.assert_array_equal(judged.returns[0], judged.returns[1])
    assert (judged.lengths == 50).all() and not judged.halted.any()


def test_halt_is_counted_for_episodes_that_still_run():
    """From x = 0.5 to the right the cart leaves what the models know, once per episode."""
    policy = toys.linear_policy(np.zeros((2, 1)), [1.0]).numpy()
    judged = toy_judge(threshold=0.2).policy(policy)
    assert judged.halted.all() and (judged.lengths < 50).all()
    assert judged.promise < 0.0  # 1 taken for every step that was left


def test_a_controller_with_memory_is_judged_like_a_policy():
    policy = toys.linear_policy(np.array([[-0.3], [-0.2]]), [0.1])
    made = toy_judge()

    def decide(observations, memory, key):
        del key
        return policy.mean(observations), memory + 1, {}

    told = []

    def start(observations):
        told.append(observations.shape)
        return tf.constant(0)

    judged = made.run(start, decide)
    np.testing.assert_allclose(judged.returns, made.policy(policy.numpy()).returns, rtol=1e-5)
    assert told == [(4, 2)]


def test_what_is_told_of_decisions_counts_while_an_episode_runs():
    """Carts from x = 0.5 halt after 8 steps and are put back; what is told of them then is nothing."""
    made = toy_judge(threshold=0.2)
    starts = np.array([[0.0, 0.0], [0.5, 1.0]], np.float32)
    made = judging.Judge(made.models, starts)

    def decide(observations, memory, key):
        del key
        told = {"right": observations[:, 0] > 0.4, "steps": tf.ones_like(observations[:, 0])}
        return tf.zeros([len(observations), 1]), memory, told

    judged = made.run(lambda observations: tf.constant(0), decide)
    assert judged.lengths.tolist() == [[50, 8], [50, 8]] and judged.halted[:, 1].all()
    assert judged.decisions == {"right": pytest.approx(8 / 58), "steps": 1.0}


def test_a_fitted_judge_knows_the_cart_and_is_read_again(tmp_path):
    data = toys.transitions((40,) * 20)
    record = toys.record(tmp_path / "run")

    def made(record):
        return judging.fit_or_load(
            TASK, physics="v2", data=data, config=SMALL, seed=3, record=record
        )

    fitted = made(record)
    good = toys.linear_policy(np.array([[-0.3], [-0.6]]), [0.2]).numpy()
    bad = toys.linear_policy(np.zeros((2, 1)), [-1.0]).numpy()
    assert fitted.policy(good).promise > fitted.policy(bad).promise
    assert fitted.starts.shape == (4, 2)
    starts = data.observations[data.episode_bounds()[:, 0]]
    assert all((starts == start).all(axis=1).any() for start in fitted.starts)
    again = made(type(record).open_existing(record.folder))
    np.testing.assert_array_equal(again.policy(good).returns, fitted.policy(good).returns)
    assert again.models.threshold == fitted.models.threshold


def test_rewards_after_halt_are_low_ones_of_the_data_and_no_gain(tmp_path):
    data = toys.transitions((40,) * 20)
    data = dataclasses.replace(data, rewards=np.arange(800, dtype=np.float32) - 100.0)
    config = dataclasses.replace(SMALL, judge_steps=1)
    told = [
        judging.fit_or_load(
            TASK,
            physics="v2",
            data=dataclasses.replace(data, rewards=data.rewards + shift),
            config=config,
            seed=0,
            record=toys.record(tmp_path / str(shift)),
        ).models.halted_reward
        for shift in (0, 1000)
    ]
    assert told == [pytest.approx(np.quantile(data.rewards, 0.05)), 0.0]


def test_one_model_cannot_disagree():
    with pytest.raises(UserError, match="^--judge_members: expected 0, or 2 models or more"):
        JudgeConfig(judge_members=1)


def test_rows_that_were_shuffled_have_no_judge():
    data = toys.transitions()
    steps = dataclasses.replace(data, timeouts=~data.terminals)
    judging.check_episodes(JudgeConfig(), data)
    judging.check_episodes(JudgeConfig(judge_members=0), steps)
    with pytest.raises(UserError, match="^--judge_members: .*or --judge_members=0"):
        judging.check_episodes(JudgeConfig(), steps)
