from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import toys

from morel_tf.config import CloningConfig, PlannerConfig
from morel_tf.planning import npg_planner, start
from offline_tf.judging.model_simulator import Models
from offline_tf.numerics.holdout import Split, split_episodes

TASK = toys.cart()
SMALL = PlannerConfig(policy_hidden=(8,))
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


def begun(folder, data, judge, cloning=CLONING, planner=SMALL, split=None):
    found = start.clone_or_load(
        toys.plain_units(2, 1),
        task=TASK,
        data=data,
        split=split or split_episodes(data.episode_bounds(), 0.1, 0),
        config=cloning,
        planner=planner,
        seed=0,
        judge=judge,
        record=toys.record(folder),
    )
    return found.policy, found


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
    given = dataclasses.replace(SMALL, init_log_std=-1.5)
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


NONE_HELD_OUT = Split(np.arange(2400), np.arange(0))


def test_split_without_held_out_rows(tmp_path):
    few = dataclasses.replace(CLONING, bc_steps=10)
    _, found = begun(tmp_path / "run", two_policies(), None, few, split=NONE_HELD_OUT)
    assert np.isfinite(found.result["residual"]).all()


def bent(noise):
    """Actions follow a wave that one unit cannot, with noise on them."""
    data = two_policies()
    draws = np.random.default_rng(1)
    states = draws.uniform(-1.0, 1.0, data.observations.shape).astype(np.float32)
    actions = 0.5 * np.sin(4.0 * states[:, :1]) + noise * draws.normal(size=(len(data), 1))
    return dataclasses.replace(data, observations=states, actions=actions.astype(np.float32))


@pytest.mark.parametrize(("noise", "hidden"), [(0.05, (32,)), (5.0, (1,))])
def test_policies_are_as_wide_as_the_data_ask_for(tmp_path, monkeypatch, noise, hidden):
    monkeypatch.setattr(npg_planner, "WIDTHS", ((1,), (32,)))
    cloning = dataclasses.replace(CLONING, bc_restarts=0, bc_share=1.0)
    policy, found = begun(tmp_path / "run", bent(noise), None, cloning, PlannerConfig())
    assert policy.hidden == found.cloned.hidden == hidden
    assert tuple(found.result["hidden"]) == hidden
    again, read = begun(tmp_path / "run", bent(noise), None, cloning, PlannerConfig())
    assert toys.bits(again.weights) == toys.bits(policy.weights)
    assert read.result == found.result
    alone, given = begun(
        tmp_path / "given", bent(noise), None, cloning, PlannerConfig(policy_hidden=hidden)
    )
    assert toys.bits(alone.weights) == toys.bits(policy.weights)
    assert given.result["residual"] == found.result["residual"]


def test_shares_are_compared_at_the_width_of_all_episodes(tmp_path, monkeypatch):
    monkeypatch.setattr(npg_planner, "WIDTHS", ((1,), (32,)))
    cloning = dataclasses.replace(CLONING, bc_steps=500, bc_restarts=0)
    _, found = begun(tmp_path / "run", bent(0.05), PrefersLeft(), cloning, PlannerConfig())
    assert found.result["hidden"] == [32]
    stages = {path.stem for path in (tmp_path / "run" / "stages").iterdir()}
    assert {"clone_1", "clone_1_32", "clone_0.5_32"} <= stages
    assert "clone_0.5" not in stages


def test_widths_are_compared_by_held_out_rows_alone(tmp_path):
    def widths(**changes):
        units = toys.plain_units(2, 1)
        config = dataclasses.replace(CLONING, **changes)
        policies = start.first_policies(units, config, PlannerConfig(), 0)
        return [policy.hidden for policy in policies]

    assert widths() == [(64, 64), (256, 256)]
    assert widths(bc_epochs=5) == widths(bc_steps=0) == [(64, 64)]
    few = dataclasses.replace(CLONING, bc_steps=10)
    run = (tmp_path / "run", bent(0.05), None, few, PlannerConfig(), NONE_HELD_OUT)
    assert begun(*run)[1].result["hidden"] == [64, 64]
