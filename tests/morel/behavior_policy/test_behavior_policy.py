from __future__ import annotations

import collections
import dataclasses
import json
import types

import numpy as np
import pytest
import tensorflow as tf
import toys

from morel_tf.behavior_policy import training
from morel_tf.behavior_policy.sampler import OnlineSampler
from morel_tf.config import BehaviorConfig, PlannerConfig
from morel_tf.planning import policy_update
from offline_tf import tasks
from offline_tf.datasets.formats import d4rl
from offline_tf.policies import gaussian as policy_file
from offline_tf.policies.gaussian import GaussianPolicy
from offline_tf.tasks.simulator import Simulator
from offline_tf.types import UserError

LIMIT = 25
# A hopper whose episodes end by a time limit too, and soon.
HOPPER = dataclasses.replace(
    tasks.get("hopper"), name="short_hopper", max_episode_steps=LIMIT, reference_returns=None
)
POLICY = GaussianPolicy(
    toys.plain_units(11, 3), (8,), -0.5, generator=np.random.default_rng(0)
).numpy()


def _sampler(count=4, seed=0):
    return OnlineSampler(Simulator(HOPPER, "v2", count, threads=1), np.random.default_rng(seed))


def _blocks(sampler, lengths, first_seed=0):
    return [
        sampler.sample(POLICY, length, np.random.default_rng(first_seed + index))
        for index, length in enumerate(lengths)
    ]


def _joined(blocks, name):
    return np.concatenate([getattr(paths, name) for paths, _ in blocks])


def test_blocks_carry_episodes_on_and_cut_them_where_they_end():
    sampler = _sampler()
    blocks = _blocks(sampler, [7, 13, 1, 9, 30])
    assert sampler.steps == 60 * 4
    times, terminated, ended = (_joined(blocks, n) for n in ("times", "terminated", "ended"))
    observations, after = (_joined(blocks, n) for n in ("observations", "next_observations"))
    assert times.shape == (60, 4) and all(paths.valid.all() for paths, _ in blocks)
    # Every path is cut at a block's end, and otherwise exactly where its episode ends.
    over = terminated | (times == LIMIT - 1)
    block_ends = np.isin(np.arange(60), np.cumsum([7, 13, 1, 9, 30]) - 1)
    np.testing.assert_array_equal(ended, over | block_ends[:, None])
    assert terminated.any() and (times == LIMIT - 1).any()
    for k in range(4):
        for t in range(59):
            if over[t, k]:
                assert times[t + 1, k] == 0
                # Near the robot's start (height 1.25, noise 5e-3), not near where it fell.
                assert observations[t + 1, k, 0] == pytest.approx(1.25, abs=6e-3)
                assert np.abs(observations[t + 1, k] - after[t, k]).max() > 1e-3
            else:
                assert times[t + 1, k] == times[t, k] + 1
                np.testing.assert_array_equal(observations[t + 1, k], after[t, k])
    np.testing.assert_array_equal(terminated, HOPPER.termination(tf.constant(after)))


def test_recent_returns_are_sums_over_whole_episodes():
    sampler = _sampler()
    blocks = _blocks(sampler, [20, 20, 20])
    rewards, times = _joined(blocks, "rewards"), _joined(blocks, "times")
    over = _joined(blocks, "terminated") | (times == LIMIT - 1)
    expected, running = [], np.zeros(4)
    for t in range(60):
        running += rewards[t]
        expected += running[over[t]].tolist()
        running[over[t]] = 0.0
    assert len(expected) > 4
    np.testing.assert_allclose(sampler.recent_returns, expected)


def test_block_rows_are_what_the_simulator_does():
    """Each recorded (qpos, qvel, clipped action) leads to the recorded reward and next observation."""
    ((paths, physical),) = _blocks(_sampler(), [40])
    assert np.abs(paths.actions).max() > 1.0  # as drawn, not clipped
    simulator = Simulator(HOPPER, "v2", 4, threads=1)
    for t in (0, 17, 39):
        simulator.set_states(physical["qpos"][t], physical["qvel"][t])
        np.testing.assert_array_equal(simulator.observations(), paths.observations[t])
        rewards, terminated = simulator.step(np.clip(paths.actions[t], -1, 1))
        np.testing.assert_allclose(rewards, paths.rewards[t], rtol=1e-12)
        np.testing.assert_array_equal(terminated, paths.terminated[t])
        np.testing.assert_array_equal(simulator.observations(), paths.next_observations[t])


def test_a_restored_sampler_goes_on_with_the_same_bits():
    first = _sampler()
    _blocks(first, [17, 20])
    second = _sampler(seed=99)
    second.restore(first.state())
    assert second.steps == first.steps == 37 * 4
    one, two = (_blocks(sampler, [15, 30], first_seed=50) for sampler in (first, second))
    for (paths, physical), (others, other_physical) in zip(one, two, strict=True):
        for a, b in zip(paths, others, strict=True):
            np.testing.assert_array_equal(a, b)
        for name, values in physical.items():
            np.testing.assert_array_equal(values, other_physical[name])
    assert list(first.recent_returns) == list(second.recent_returns)
    for name, values in first.state().items():
        np.testing.assert_array_equal(values, second.state()[name])


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Runs a small training: 8 updates of 4 simulators times 60 steps; every second is kept."""
    monkeypatch.setitem(tasks._registered, "short_hopper", HOPPER)
    few = {"cg_iterations": 2}  # each takes a tenth of a second without a graph
    monkeypatch.setattr(training, "PlannerConfig", lambda **knobs: PlannerConfig(**knobs | few))
    monkeypatch.setattr(training, "_MEASURED_EPISODES", 3)
    monkeypatch.setattr(training, "_CHECKPOINTS", 4)
    # A process sets its threads once, before anything runs.
    monkeypatch.setattr(training.compilation, "use_threads", lambda threads: 1)
    # Tracing would be most of the time.
    tf.config.run_functions_eagerly(True)

    def run(name, **changes):
        config = BehaviorConfig(
            env="short_hopper",
            num_steps=8 * 240,
            simulators=4,
            steps_per_update=60,
            workdir=str(tmp_path / name),
            save_transitions=str(tmp_path / f"{name}.hdf5"),
        )
        return training.run(dataclasses.replace(config, **changes))

    yield run
    tf.config.run_functions_eagerly(False)


def _killed_in_update(monkeypatch, at):
    """policy_update.update, which dies at its `at`-th call, when the block is written already."""
    real, calls = policy_update.update, []

    def update(*arguments, **options):
        assert options["bootstrap_targets"]  # paths are pieces of episodes
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(training.policy_update, "update", update)


def test_training_resumes_to_the_same_bits_and_keeps_every_transition(train, tmp_path, monkeypatch):
    summary = train("unbroken")
    for at in (2, 4):  # before the first checkpoint; one update after it, so that a block is undone
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            _killed_in_update(patch, at)
            train("broken")
    assert {k: v for k, v in train("broken").items() if k != "command"} == {
        k: v for k, v in summary.items() if k != "command"
    }
    policies = [policy_file.load(tmp_path / name / "policy.npz") for name in ("unbroken", "broken")]
    for one, two in zip(*(p.layers + ((p.log_std, p.units.input_scale),) for p, _ in policies)):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
    metrics = [tmp_path / name / "metrics" / "training.csv" for name in ("unbroken", "broken")]
    assert metrics[0].read_text() == metrics[1].read_text()
    assert len(metrics[0].read_text().splitlines()) == 1 + 8

    data, again = (d4rl.read(tmp_path / f"{name}.hdf5", 11) for name in ("unbroken", "broken"))
    assert d4rl.content_hash(data) == d4rl.content_hash(again)
    np.testing.assert_array_equal(data.qpos, again.qpos)
    assert len(data) == summary["steps"] == 8 * 240
    # Each simulator's 480 steps in a row; no transition crosses an episode's end.
    bounds, lengths = data.episode_bounds(), np.diff(data.episode_bounds()).ravel()
    assert set(np.arange(480, 1921, 480)) <= set(bounds[:, 1])
    assert lengths.max() == LIMIT
    over = data.terminals | data.timeouts
    inside = ~over[:-1]
    np.testing.assert_array_equal(
        data.observations[1:][inside], data.next_observations[:-1][inside]
    )
    starts = data.observations[bounds[:, 0]]
    np.testing.assert_allclose(starts[:, 0], 1.25, atol=6e-3)
    assert not (data.terminals & data.timeouts).any()
    # A timeout is the limit, or the end of what was seen of a simulator.
    short = bounds[:, 1][data.timeouts[bounds[:, 1] - 1] & (lengths < LIMIT)]
    assert set(short) <= set(np.arange(480, 1921, 480))
    np.testing.assert_array_equal(
        data.terminals, HOPPER.termination(tf.constant(data.next_observations))
    )
    assert np.abs(data.actions).max() <= 1.0
    np.testing.assert_allclose(data.qpos[:, 1:], data.observations[:, :5], rtol=1e-6, atol=1e-6)


def test_the_summary_says_what_was_measured(train, tmp_path):
    summary = train("run", num_steps=100, save_transitions="")
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 240  # one whole update
    assert summary["episodes"] == 3
    assert "--num_steps=240" in summary["command"] and "--env=short_hopper" in summary["command"]
    # At most 25 steps: nobody gets far, and nobody falls at once.
    assert 5 < summary["mean_return"] < 60
    _, about = policy_file.load(tmp_path / "run" / "policy.npz")
    assert about == summary


def test_training_stops_at_the_target_return(train):
    # 100 episodes of at most 25 steps are over after a few blocks; a return of 1 is soon there.
    settings = {"num_steps": 30 * 1200, "simulators": 20, "save_transitions": ""}
    summary = train("run", target_return=1.0, **settings)
    assert summary["steps"] in (1200, 2400, 3600)
    assert f"--num_steps={summary['steps']} " in summary["command"]


def test_the_target_is_the_mean_of_the_last_hundred_episodes():
    def reached(target, values=(1.0,) * 50 + (3.0,) * 50):
        recent = types.SimpleNamespace(recent_returns=collections.deque(values, maxlen=100))
        return training._reached(BehaviorConfig(target_return=target), recent)

    assert reached(2.0) and not reached(2.01) and not reached(None)
    assert not reached(2.0, (3.0,) * 99)


def test_a_checkpoint_is_the_end_of_the_shorter_run_that_its_file_names(train, tmp_path):
    train("run", save_transitions="")
    checkpoint, about = policy_file.load(tmp_path / "run" / "policies" / "480.npz")
    assert "--num_steps=480 " in about["command"] and about["steps"] == 480
    summary = train("short", num_steps=480, save_transitions="")
    short, _ = policy_file.load(tmp_path / "short" / "policy.npz")
    for layer, other in zip(checkpoint.layers, short.layers, strict=True):
        for a, b in zip(layer, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert summary == about


def test_transitions_that_were_deleted_come_again(train, tmp_path):
    path = tmp_path / "kept.hdf5"
    summary = train("run", num_steps=480, save_transitions=str(path))
    before = d4rl.content_hash(d4rl.read(path))
    path.unlink()
    assert train("run", num_steps=480, save_transitions=str(path)) == summary
    assert d4rl.content_hash(d4rl.read(path)) == before


def test_transitions_are_never_written_over_a_file(train, tmp_path):
    (tmp_path / "mine.hdf5").write_text("mine")
    with pytest.raises(UserError, match="it is not replaced"):
        train("run", save_transitions=str(tmp_path / "mine.hdf5"))
    assert (tmp_path / "mine.hdf5").read_text() == "mine"


def test_only_our_own_robots_are_trained(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="--env: expected one of hopper, .*, got Pendulum-v1"):
        training.run(BehaviorConfig(env="Pendulum-v1", workdir=str(folder)))
    with pytest.raises(UserError, match="--init_log_std: expected a number between .*, got -3"):
        training.run(BehaviorConfig(init_log_std=-3.0, workdir=str(folder)))
    assert not folder.exists()


def test_a_refused_file_name_leaves_no_run_behind(train, tmp_path):
    (tmp_path / "mine.hdf5").write_text("mine")
    with pytest.raises(UserError, match="it is not replaced"):
        train("run", save_transitions=str(tmp_path / "mine.hdf5"))
    assert not (tmp_path / "run").exists()


def test_a_finished_training_can_be_asked_for_again(train):
    assert train("run", num_steps=100) == train("run", num_steps=100)


def test_the_command_names_every_flag_that_decides_the_result(train):
    command = train("run", num_steps=100, save_transitions="")["command"]
    assert "--simulators=4" in command and "--steps_per_update=60" in command
