from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import toys

from morel_tf.config import PlannerConfig
from morel_tf.planning import npg_planner, pessimistic_mdp
from morel_tf.planning.pessimistic_mdp import RollOut
from offline_tf.judging.judge import Judgement
from offline_tf.policies.gaussian import raw_units
from offline_tf.types import UserError

TASK = toys.cart(bound=50.0)
SMALL = PlannerConfig(
    iterations=7,
    policy_hidden=(8,),
    init_log_std=-1.0,
    discount=0.97,
    cg_iterations=4,
    fisher_share=0.5,
    baseline_hidden=(8,),
    baseline_batch_size=32,
)
STARTS = np.random.default_rng(0).uniform(-0.5, 0.5, (12, 2)).astype(np.float32)


@pytest.fixture
def eagerly():
    """Without graphs: tracing would be most of the time of a test with few tiny steps."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def _block(valid, rewards=None, unknown=None, disagreement=None):
    """A roll-out with T = len(valid) and K = len(valid[0])."""
    valid = np.array(valid, bool)
    steps, count = valid.shape
    zeros = np.zeros((steps, count), np.float32)
    unknown = np.zeros_like(valid) if unknown is None else np.array(unknown, bool)
    rng = np.random.default_rng(0)
    values = RollOut(
        observations=rng.normal(size=(steps, count, 2)),
        actions=rng.normal(size=(steps, count, 1)),
        rewards=zeros if rewards is None else np.array(rewards, np.float32),
        next_observations=rng.normal(size=(steps, count, 2)),
        terminated=unknown,
        unknown=unknown,
        valid=valid,
        disagreement=zeros if disagreement is None else np.array(disagreement, np.float32),
    )
    return RollOut(*(tf.constant(x) for x in values))


def test_kl_falls_linearly_to_its_final_share():
    config = PlannerConfig(iterations=40, kl_per_update=0.02, kl_final_share=0.25)
    assert npg_planner.annealed_kl(config, 0) == pytest.approx(0.02)
    assert npg_planner.annealed_kl(config, 20) == pytest.approx(0.02 * 0.625)
    assert npg_planner.annealed_kl(config, 40) == pytest.approx(0.005)
    steps = np.diff([npg_planner.annealed_kl(config, i) for i in range(41)])
    np.testing.assert_allclose(steps, -0.015 / 40)
    constant = dataclasses.replace(config, kl_final_share=1.0)
    assert {npg_planner.annealed_kl(constant, i) for i in (0, 7, 39)} == {0.02}
    # Also with a final share of 0 every update moves the policy.
    assert npg_planner.annealed_kl(dataclasses.replace(config, kl_final_share=0.0), 39) > 0


def test_every_path_ends_exactly_once_at_its_last_real_step():
    lengths = np.array([1, 4, 2, 4, 3])
    valid = np.arange(4)[:, None] < lengths
    unknown = np.zeros((4, 5), bool)
    unknown[0, 0] = unknown[1, 2] = True
    block = _block(valid, unknown=unknown)
    paths = npg_planner.to_paths(block)
    np.testing.assert_array_equal(paths.ended.sum(axis=0), np.ones(5))
    np.testing.assert_array_equal(paths.ended.argmax(axis=0), lengths - 1)
    np.testing.assert_array_equal(paths.times, np.repeat(np.arange(4)[:, None], 5, axis=1))
    np.testing.assert_array_equal(paths.terminated, unknown)
    np.testing.assert_array_equal(paths.valid, valid)
    assert not (paths.terminated & ~paths.ended).any()
    for name in ("observations", "actions", "rewards", "next_observations"):
        np.testing.assert_array_equal(getattr(paths, name), getattr(block, name))


def test_path_statistics_by_hand():
    block = _block(
        valid=[[1, 1, 1], [1, 1, 0], [0, 1, 0]],
        rewards=[[1.0, 2.0, -7.0], [3.0, 4.0, 99.0], [99.0, 5.0, 99.0]],
        unknown=[[0, 0, 1], [1, 0, 0], [0, 0, 0]],
        disagreement=[[0.1, 0.2, 0.9], [0.6, 0.3, 50.0], [50.0, 0.3, 50.0]],
    )
    expected = {
        "pmdp_return": (4.0 + 11.0 - 7.0) / 3,
        "halt_share": 2 / 3,
        "halt_step": 1.5,  # HALT after 2 steps and after 1
        "path_length": 2.0,
        "disagreement_mean": 2.4 / 6,
        "disagreement_max": 0.9,
    }
    assert npg_planner.path_statistics(block) == pytest.approx(expected)
    nobody = npg_planner.path_statistics(_block([[1, 1], [1, 1]]))
    assert (nobody["halt_share"], nobody["halt_step"]) == (0.0, 2.0)


def _plan(
    folder,
    evaluate=lambda policy, iteration: {},
    config=SMALL,
    gains=(0.0, 1.0),
    judge=None,
    **mdp,
):
    """A fresh policy, planned for the cart; returns P-MDP return, policy and record."""
    settings = {"threshold": 0.05, "horizon": 6, "paths_per_member": 5} | mdp
    pmdp = toys.pessimistic(TASK, toys.hinged_ensemble(TASK, gains), **settings)
    policy = npg_planner.new_policy(raw_units(TASK, config.policy_velocity_scale), config, 3)
    record = toys.record(folder)
    stage = record.stage("planning")
    value = npg_planner.plan(
        pmdp,
        policy=policy,
        first_rows=np.arange(len(STARTS)),
        states=STARTS,
        config=config,
        seed=0,
        stage=stage,
        evaluate=evaluate,
        judge=judge,
    )
    return value["pmdp_return"], policy, record


def _true_return(policy, horizon=25, count=400):
    """Of the real cart, with noise in the actions."""
    rng = np.random.default_rng(5)
    states, total = STARTS[rng.integers(12, size=count)], 0.0
    for _ in range(horizon):
        actions = np.clip(policy.sample(states, rng), -1, 1)
        after = states + toys.change(states, actions)
        total += toys.reward(states, actions, after).mean()
        states = after
    return total


@pytest.mark.usefixtures("eagerly")
def test_the_promise_is_as_sure_as_its_starts(tmp_path, monkeypatch):
    """Two members follow the same five starts: five independent numbers, not ten."""
    seen = []

    def interval(name, values):
        seen.append(np.array(values))
        return {name: float(values.mean())}

    monkeypatch.setattr(npg_planner.returns, "with_interval", interval)
    monkeypatch.setattr(npg_planner, "path_returns", lambda block: np.arange(10.0))
    _plan(tmp_path / "run", lambda policy, iteration: {"true_return": 0.0})
    np.testing.assert_array_equal(seen[0], [2.5, 3.5, 4.5, 5.5, 6.5])


def test_every_knob_reaches_what_it_is_of(tmp_path, monkeypatch):
    config = dataclasses.replace(
        SMALL,
        discount=0.9,
        gae_lambda=0.8,
        kl_per_update=0.03,
        cg_iterations=3,
        cg_damping=0.02,
        fisher_share=0.4,
        min_log_std=-1.5,
        max_log_std=0.5,
        baseline_learning_rate=0.002,
        baseline_weight_decay=0.003,
        baseline_epochs=4,
        baseline_batch_size=16,
        policy_units="raw",
        policy_velocity_scale=0.3,
        baseline_velocity_scale=0.2,
    )
    seen = {}

    def noted(name, function):
        def call(first, **options):
            seen[name] = {"first": first} | options
            return function(first, **options)

        return call

    for name in ("NaturalGradient", "ValueBaseline"):
        monkeypatch.setattr(npg_planner, name, noted(name, getattr(npg_planner, name)))

    def update(policy, **options):
        seen["update"] = options
        raise toys.Killed

    monkeypatch.setattr(npg_planner.policy_update, "update", update)
    with pytest.raises(toys.Killed):
        _plan(tmp_path / "run", config=config)
    step = {"cg_iterations": 3, "cg_damping": 0.02, "fisher_share": 0.4}
    step |= {"min_log_std": -1.5, "max_log_std": 0.5}
    assert seen["NaturalGradient"].items() >= step.items()
    fit = {"hidden": (8,), "learning_rate": 0.002, "weight_decay": 0.003}
    fit |= {"epochs": 4, "batch_size": 16}
    assert seen["ValueBaseline"].items() >= fit.items()
    scale = raw_units(TASK, 0.2).input_scale
    assert len(set(scale)) == 2  # positions and velocities
    np.testing.assert_array_equal(seen["ValueBaseline"]["first"].input_scale, scale)
    assert (
        seen["update"].items()
        >= {"discount": 0.9, "gae_lambda": 0.8, "kl_per_update": 0.03}.items()
    )


@pytest.mark.parametrize("bounds", [(-3.0, -2.0, 1.0), (1.5, 1.5, 1.0), (0.0, -2.0, -1.0)])
def test_first_noise_lies_within_its_bounds(bounds):
    first, least, greatest = bounds
    with pytest.raises(UserError, match=f"--init_log_std: expected .* got {first:g}"):
        PlannerConfig(init_log_std=first, min_log_std=least, max_log_std=greatest)


def test_planning_improves_the_pessimistic_and_the_true_return(tmp_path):
    config = dataclasses.replace(
        SMALL, policy_hidden=(4,), iterations=12, kl_per_update=0.05, kl_final_share=0.5
    )
    before = npg_planner.new_policy(
        raw_units(TASK, config.policy_velocity_scale), config, 3
    ).numpy()
    numbers = {}

    def evaluate(policy, iteration):
        if iteration % 6:
            return {}
        numbers[iteration] = _true_return(policy)
        return {"true_return": numbers[iteration]}

    mdp = {"threshold": np.inf, "horizon": 25, "paths_per_member": 20}
    value, policy, record = _plan(tmp_path / "run", evaluate, config, gains=(0.0, 0.0), **mdp)
    # Both members know the cart, so the P-MDP's return is the true one, up to its own sampling.
    after = _true_return(policy.numpy())
    assert value == pytest.approx(after, rel=0.1)
    assert after > _true_return(before) + 10.0
    table = np.genfromtxt(record.folder / "metrics" / "planning.csv", delimiter=",", names=True)
    assert len(table) == 12 and (table["step"] == np.arange(1, 13)).all()
    assert table["pmdp_return"][-1] > table["pmdp_return"][0] + 10.0
    assert table["samples"].tolist() == [2 * 20 * 25] * 12
    # A linear policy's KL is quadratic but for log_std, so each step is as long as annealed_kl says.
    targets = [npg_planner.annealed_kl(config, i) for i in range(12)]
    np.testing.assert_allclose(table["kl"], targets, rtol=0.35)
    np.testing.assert_allclose(table["kl_target"], targets, rtol=1e-6)
    path = record.folder / "metrics" / "planning.evaluation.csv"
    seen = np.genfromtxt(path, delimiter=",", names=True)
    assert seen["step"].tolist() == [6, 12] == list(numbers)
    np.testing.assert_allclose(seen["true_return"], list(numbers.values()), rtol=1e-6)
    np.testing.assert_allclose(seen["pmdp_return"], table["pmdp_return"][[5, 11]], rtol=1e-6)
    assert record.stage("planning").result["pmdp_return"] == value


def test_pessimism_keeps_the_policy_where_the_models_agree(tmp_path):
    """Beyond |x| = 1 a member dreams of a wind that pays; only the naive planner goes there."""
    config = dataclasses.replace(SMALL, iterations=12, kl_per_update=0.05)
    reached = {}
    for name, threshold in (("naive", np.inf), ("pessimistic", 0.05)):
        mdp = {"threshold": threshold, "horizon": 25, "paths_per_member": 20}
        _, policy, _ = _plan(tmp_path / name, config=config, gains=(0.0, 0.3), **mdp)
        policy, states, furthest = policy.numpy(), STARTS, 0.0
        for _ in range(25):
            actions = np.clip(policy.mean(states), -1, 1)
            states = states + toys.change(states, actions)
            furthest = np.maximum(furthest, np.abs(states[:, 0]))
        reached[name] = furthest.mean()
    assert reached["pessimistic"] < 2.5 < reached["naive"]


def test_an_update_that_is_no_number_is_named(tmp_path, monkeypatch):
    def update(*_, **__):
        raise FloatingPointError("the policy's gradient is not a number")

    monkeypatch.setattr(npg_planner.policy_update, "update", update)
    with pytest.raises(
        UserError,
        match="^planning: the policy's gradient .* in iteration 1; .* or lower --kl_per_update",
    ):
        _plan(tmp_path)


def test_killed_at_any_iteration_it_ends_with_the_same_bits(tmp_path):
    value, policy, record = _plan(tmp_path / "unbroken")
    tables = (record.folder / "metrics" / "planning.csv").read_text()
    # Before the first checkpoint, which is at 5; one iteration after it; and at the last.
    for iteration in (2, 6, 7):

        def evaluate(policy, done, at=iteration):
            if done == at:
                raise toys.Killed
            return {}

        with pytest.raises(toys.Killed):
            _plan(tmp_path / "broken", evaluate)
    again, continued, broken = _plan(tmp_path / "broken")
    assert toys.bits(continued.weights) == toys.bits(policy.weights)
    assert again == value
    assert (broken.folder / "metrics" / "planning.csv").read_text() == tables
    # What is complete is read, not planned again.
    third, read, _ = _plan(tmp_path / "broken", lambda policy, done: pytest.fail("planned again"))
    assert (third, toys.bits(read.weights)) == (value, toys.bits(policy.weights))


class AlwaysLess:
    """A judge that finds every policy worth less than the one before."""

    def __init__(self):
        self.found = 0.0

    def policy(self, policy):
        self.found -= 1.0
        returns = np.full((2, 2), self.found)
        return Judgement(returns, returns, np.ones((2, 2)), np.zeros((2, 2), bool))


@pytest.mark.parametrize(("patience", "done"), [(100, 3), (1, 2)], ids=["whole", "ended early"])
def test_killed_with_the_best_policy_on_disk_it_tells_the_iterations_that_were_done(
    tmp_path, monkeypatch, eagerly, patience, done
):
    config = dataclasses.replace(
        SMALL, iterations=3, judge_every=1, judge_patience=patience, judge_halvings=0
    )
    with monkeypatch.context() as patch:
        patch.setattr(npg_planner.Stage, "finish", toys.dying(npg_planner.Stage.finish, 1))
        with pytest.raises(toys.Killed):
            _plan(tmp_path, config=config, judge=AlwaysLess())
    _, _, record = _plan(tmp_path, config=config, judge=AlwaysLess())
    table = np.genfromtxt(record.folder / "metrics" / "planning.csv", delimiter=",", names=True)
    assert record.stage("planning").result["iterations"] == table["step"][-1] == done


def test_every_member_starts_from_the_same_states_and_drives_its_paths(
    tmp_path, monkeypatch, eagerly
):
    real, seen = pessimistic_mdp.roll_out, []

    def spy(pmdp, *, starts, member, seed, **others):
        seen.append((starts.numpy(), member.numpy(), seed.numpy()))
        return real(pmdp, starts=starts, member=member, seed=seed, **others)

    monkeypatch.setattr(pessimistic_mdp, "roll_out", spy)
    config = dataclasses.replace(SMALL, iterations=2)
    _plan(tmp_path / "run", config=config, gains=(0.0, 1.0, 2.0), start_mix=0.5)
    assert len(seen) == 3  # two updates, and fresh paths for the final value
    for starts, member, _ in seen:
        np.testing.assert_array_equal(member, [0] * 5 + [1] * 5 + [2] * 5)
        np.testing.assert_array_equal(starts[:5], starts[5:10])
        np.testing.assert_array_equal(starts[:5], starts[10:])
    assert not np.array_equal(seen[0][0], seen[1][0])
    assert len({tuple(seed) for *_, seed in seen}) == 3


def test_new_networks_follow_the_knobs():
    config = PlannerConfig(policy_hidden=(7, 3), policy_velocity_scale=0.02, init_log_std=-0.25)
    policy = npg_planner.new_policy(raw_units(TASK, config.policy_velocity_scale), config, 0)
    assert [w.shape.as_list() for w in policy.weights] == [
        [2, 7],
        [7],
        [7, 3],
        [3],
        [3, 1],
        [1],
        [1],
    ]
    np.testing.assert_allclose(policy.log_std, [-0.25])
    states = tf.constant([[0.3, 5.0]])
    scaled = toys.numpy_forward(policy.network, [[0.3, 5.0 * 0.02]])  # x as it is, v times 0.02
    np.testing.assert_allclose(policy.mean(states), scaled, rtol=1e-5)
    # The last layer starts 100 times smaller (gaussian_mlp.py).
    assert np.abs(policy.weights[4]).max() <= 0.01 / np.sqrt(3)
    units = raw_units(TASK, config.policy_velocity_scale)
    same, other = (npg_planner.new_policy(units, config, seed) for seed in (0, 1))
    assert toys.bits(same.weights) == toys.bits(policy.weights) != toys.bits(other.weights)
