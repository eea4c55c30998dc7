import dataclasses

import numpy as np
import pytest
import toys

from offline_tf.evaluation import policy_episodes
from offline_tf.numerics import seeds
from offline_tf.policies.gaussian import NumpyPolicy
from offline_tf.tasks.simulator import Simulator

EPISODES = 6


def constant_policy(value, log_std=-1.0):
    layers = ((np.zeros((11, 3), np.float32), np.full(3, value, np.float32)),)
    return NumpyPolicy(toys.plain_units(11, 3), layers, np.full(3, log_std, np.float32))


def evaluate(hopper, policy, stochastic=False, seed=0, name="test", **options):
    return policy_episodes.evaluate(
        policy,
        task=hopper,
        physics="v2",
        episodes=EPISODES,
        stochastic=stochastic,
        seed=seed,
        name=name,
        threads=1,
        **options,
    )


def naive_episode(hopper, qpos, qvel, action, limit):
    """Return and length of one episode with a constant action."""
    simulator = Simulator(hopper, "v2", 1, threads=1)
    simulator.set_states(qpos[None], qvel[None])
    total, actions = 0.0, np.full((1, 3), action, np.float32)
    for step in range(1, limit + 1):
        rewards, terminated = simulator.step(actions)
        total += rewards[0]
        if terminated[0]:
            return total, step
    return total, limit


def start_states(hopper, seed, name):
    simulator = Simulator(hopper, "v2", EPISODES, threads=1)
    simulator.reset(seeds.generator(seed, f"evaluation/{name}/mean"))
    return simulator.qpos.copy(), simulator.qvel.copy()


@pytest.mark.parametrize("action", [0.0, 0.2])
def test_equals_one_episode_after_the_other(hopper, action):
    found = evaluate(hopper, constant_policy(action))
    starts = start_states(hopper, 0, "test")
    expected = [naive_episode(hopper, *start, action, 1000) for start in zip(*starts)]
    np.testing.assert_allclose(found.returns, [total for total, _ in expected], atol=1e-9)
    np.testing.assert_array_equal(found.lengths, [length for _, length in expected])
    assert 1 < found.lengths.min() < found.lengths.max() < 1000
    assert found.mean == pytest.approx(np.mean([total for total, _ in expected]))
    assert found.std == pytest.approx(np.std([total for total, _ in expected], ddof=1))


def test_actions_are_clipped(hopper):
    one, ten = (evaluate(hopper, constant_policy(value)) for value in (1.0, 10.0))
    np.testing.assert_array_equal(one.returns, ten.returns)


@pytest.mark.parametrize("stochastic", [True, False])
def test_repeats_by_seed_and_name(hopper, hopper_policy, stochastic):
    options = {"stochastic": stochastic, "horizon": 60}
    first = evaluate(hopper, hopper_policy, **options)
    second = evaluate(hopper, hopper_policy, **options)
    np.testing.assert_array_equal(first.returns, second.returns)
    for other in ({"seed": 1}, {"name": "other"}):
        third = evaluate(hopper, hopper_policy, **options, **other)
        assert (third.returns != first.returns).all()


def test_horizon_cuts(hopper):
    found = evaluate(hopper, constant_policy(0.0), horizon=5)
    np.testing.assert_array_equal(found.lengths, 5)
    starts = start_states(hopper, 0, "test")
    expected = [naive_episode(hopper, *start, 0.0, 5)[0] for start in zip(*starts)]
    np.testing.assert_allclose(found.returns, expected, atol=1e-9)


def test_time_limit_of_the_task_cuts(hopper):
    short = dataclasses.replace(hopper, max_episode_steps=7)
    np.testing.assert_array_equal(evaluate(short, constant_policy(0.0)).lengths, 7)


def test_given_start_states_are_used(hopper):
    qpos = np.array([[0, 1.25, 0, 0, 0, 0], [0, 1.5, 0.1, 0, 0, 0]], np.float64)
    qvel = np.array([[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]], np.float64)
    expected = [naive_episode(hopper, *start, 0.0, 1000) for start in zip(qpos, qvel)]
    for row in range(2):
        found = evaluate(
            hopper, constant_policy(0.0), starts=(qpos[row : row + 1], qvel[row : row + 1])
        )
        np.testing.assert_allclose(found.returns, expected[row][0], atol=1e-9)
        np.testing.assert_array_equal(found.lengths, expected[row][1])
    found = evaluate(hopper, constant_policy(0.0), starts=(qpos, qvel))
    assert set(found.lengths) == {length for _, length in expected}


def test_noise_changes_the_return(hopper):
    still = evaluate(hopper, constant_policy(0.0))
    noisy = evaluate(hopper, constant_policy(0.0), stochastic=True)
    assert (still.returns != noisy.returns).all()
    quiet = constant_policy(0.0, log_std=-80.0)  # exp(-80): the noise is lost in the rounding
    starts = start_states(hopper, 0, "test")
    options = {"starts": tuple(x[:1] for x in starts)}
    np.testing.assert_allclose(
        evaluate(hopper, quiet, stochastic=True, **options).returns,
        evaluate(hopper, quiet, **options).returns,
    )


def test_one_episode_has_no_spread():
    assert policy_episodes.Evaluation(np.array([3.0]), np.array([9])).std == 0.0
