from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import toys

from morel_tf.config import CloningConfig, PlannerConfig
from morel_tf.planning import start
from offline_tf.judging.model_simulator import Models
from offline_tf.numerics.holdout import Split, split_episodes
from offline_tf.policies.gaussian import GaussianPolicy

TASK = toys.cart()
CLONING = CloningConfig(bc_steps=2000, bc_batch_size=64, bc_learning_rate=5e-3)


def two_policies(noise=0.0):
    """Twenty episodes push by 0.5 and earn little, twenty by -0.5 and earn much."""
    data = toys.transitions((60,) * 40)
    good = (np.arange(len(data)) // 60) % 2 == 1
    actions = np.where(good, -0.5, 0.5) + noise * np.random.default_rng(0).normal(size=len(data))
    return dataclasses.replace(
        data, actions=actions[:, None].astype(np.float32), rewards=good.astype(np.float32)
    )


class PrefersLeft:
    """A judge that promises minus the action at the origin, and all of what is paid beyond HALT."""

    models = Models(TASK, "v2", None, None, 0.0, 0.0)

    def __init__(self, sees=1.0):
        self.sees = sees

    def policy(self, policy, after_halt=None):
        class Told:
            promise = -self.sees * float(policy.mean(np.zeros((1, 2), np.float32))[0, 0])
            promise += 0.0 if after_halt is None else 0.001 * float(after_halt[0, 0])
            centre = 2.0 * promise

        return Told()


def begun(folder, data, judge, cloning=CLONING, planner=None):
    policy = GaussianPolicy(toys.plain_units(2, 1), (8,), 0.0, np.random.default_rng(0))
    return policy, start.clone_or_load(
        policy,
        task=TASK,
        data=data,
        split=split_episodes(data.episode_bounds(), 0.1, 0),
        config=cloning,
        planner=planner or PlannerConfig(),
        seed=0,
        judge=judge,
        record=toys.record(folder),
    )


def test_the_judge_chooses_the_share(tmp_path):
    policy, found = begun(tmp_path / "run", two_policies(), PrefersLeft())
    assert found.result["share"] == 0.5  # 0.25 promises the same within a hair, all rows nothing
    assert found.result["promises"]["0.5"] > found.result["promises"]["1"] + 0.3
    at_origin = policy.numpy().mean(np.zeros((1, 2), np.float32))
    np.testing.assert_allclose(at_origin, [[-0.5]], atol=0.1)


def test_where_all_is_halt_what_the_episodes_earned_decides(tmp_path):
    _, found = begun(tmp_path / "run", two_policies(), PrefersLeft(sees=0.0))
    assert found.result["share"] == 0.5  # the better half, and no smaller share earned more
    assert set(found.result["promises"].values()) == {0.0}
    assert found.result["worth"] == pytest.approx(0.001 * TASK.max_episode_steps)
    assert found.result["centre"] == 2.0 * found.result["worth"]


def test_without_a_judge_all_episodes_are_cloned(tmp_path):
    policy, found = begun(tmp_path / "run", two_policies(), None)
    assert found.result["share"] == 1.0 and found.result["promises"] == {}
    assert found.result["worth"] is None
    assert abs(policy.numpy().mean(np.zeros((1, 2), np.float32))[0, 0]) < 0.3


def test_the_noise_is_that_of_the_data_around_the_clone(tmp_path):
    share = dataclasses.replace(CLONING, bc_share=0.5)
    policy, _ = begun(tmp_path / "wide", two_policies(0.2), None, share)
    assert np.exp(policy.log_std.numpy()[0]) == pytest.approx(0.2, rel=0.2)
    policy, _ = begun(tmp_path / "narrow", two_policies(), None, share)
    assert policy.log_std.numpy()[0] < np.log(0.1)
    given = PlannerConfig(init_log_std=-1.5)
    policy, _ = begun(tmp_path / "given", two_policies(), None, share, given)


def test_noise_stays_within_its_bounds_in_the_policys_units():
    config = PlannerConfig(min_log_std=-2.0, max_log_std=0.0)
    found = start.log_std_of(
        np.array([1e-9, 3.0, 50.0], np.float32), np.array([1.0, 10.0, 10.0], np.float32), config
    )
    np.testing.assert_allclose(found, [-2.0, np.log(3.0), np.log(10.0)], rtol=1e-5)


def test_a_complete_start_is_read(tmp_path):
    first, told = begun(tmp_path / "run", two_policies(), PrefersLeft())
    again, read = begun(tmp_path / "run", two_policies(), None)
    assert toys.bits(first.weights) == toys.bits(again.weights)
    assert read.result == told.result


def test_split_without_held_out_rows(tmp_path):
    data = two_policies()
    policy = GaussianPolicy(toys.plain_units(2, 1), (8,), 0.0, np.random.default_rng(0))
    found = start.clone_or_load(
        policy,
        task=TASK,
        data=data,
        split=Split(np.arange(len(data)), np.arange(0)),
        config=dataclasses.replace(CLONING, bc_steps=10),
        planner=PlannerConfig(),
        seed=0,
        judge=None,
        record=toys.record(tmp_path / "run"),
    )
    assert np.isfinite(found.result["residual"]).all()
