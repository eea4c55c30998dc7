from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import toys

from morel_tf.config import DynamicsConfig, PmdpConfig
from morel_tf.planning import pessimistic_mdp
from morel_tf.planning.pessimistic_mdp import RollOut
from offline_tf.models.gaussian_ensemble import GaussianEnsemble
from offline_tf.models.given_signals import GivenSignals
from offline_tf.numerics.standardize import Statistics
from offline_tf.policies.gaussian import GaussianPolicy
from offline_tf.types import LogSpec

IDLE = toys.linear_policy(np.zeros((2, 1)), [0.0])


def _roll_out(pmdp, policy, starts, member=None, seed=(3, 4)) -> RollOut:
    """Numpy block [T, K, ...]; path k follows member 0 unless told otherwise."""
    member = [0] * len(starts) if member is None else member
    block = pessimistic_mdp.roll_out(
        pmdp,
        policy=policy,
        starts=tf.constant(starts, tf.float32),
        member=tf.constant(member, tf.int32),
        seed=tf.constant(seed, tf.int32),
    )
    return RollOut(*(x.numpy() for x in block))


def _step(pmdp, states, actions, member=None, halted=None):
    states = tf.convert_to_tensor(states, tf.float32)
    actions = tf.constant(actions, tf.float32)
    count = states.shape[0]
    member = [0] * count if member is None else member
    halted = [False] * count if halted is None else halted
    return pessimistic_mdp.step(
        pmdp,
        outputs=pmdp.ensemble.bind()(states, actions),
        member=tf.constant(member, tf.int32),
        states=states,
        actions=actions,
        halted=tf.constant(halted),
        noise=None,
    )


def _random_ensemble(task, members=3):
    """Random networks with statistics that are not trivial."""
    rng = np.random.default_rng(0)
    config = DynamicsConfig(ensemble_size=members, dynamics_hidden=(8,), precision="float32")
    inputs = Statistics(*rng.uniform(0.5, 1.5, (2, 3)).astype(np.float32))
    deltas = Statistics(*rng.uniform(0.2, 0.4, (2, 2)).astype(np.float32))
    return GaussianEnsemble(task, config, inputs, deltas, seed=1)


def test_halt_absorbs_for_ever():
    """A path at an unknown pair pays the HALT reward once; then 0, and its state stays."""
    pmdp = toys.pessimistic(toys.cart(), toys.hinged_ensemble(toys.cart()), threshold=0.1)
    states, halted = np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([False, False])
    rewards, positions = [], []
    for t in range(6):
        found = _step(pmdp, states, 0.1 * t * np.ones((2, 1)), halted=halted)
        states, halted = found.next_states.numpy(), found.halted.numpy()
        rewards.append(found.rewards.numpy())
        positions.append(states[0])
        assert found.unknown.numpy().tolist() == [t == 0, False]
        assert found.terminated.numpy().tolist() == [t == 0, False]
        assert halted.tolist() == [True, False]
    rewards = np.array(rewards)
    np.testing.assert_array_equal(rewards[:, 0], [-7.0, 0, 0, 0, 0, 0])
    assert (rewards[:, 1] > 0).all()
    np.testing.assert_array_equal(positions, [positions[0]] * 6)


def test_rolled_out_rows_after_halt_are_marked_as_not_happened():
    pmdp = toys.pessimistic(
        toys.cart(), toys.hinged_ensemble(toys.cart()), threshold=0.1, horizon=5
    )
    block = _roll_out(pmdp, IDLE, [[2.0, 1.0], [0.0, 1.0]])
    np.testing.assert_array_equal(block.valid, [[True, True]] + [[False, True]] * 4)
    np.testing.assert_array_equal(block.rewards[:, 0], [-7.0, 0, 0, 0, 0])
    np.testing.assert_array_equal(block.unknown[:, 0], [True] + [False] * 4)
    np.testing.assert_array_equal(block.terminated[:, 0], [True] + [False] * 4)
    assert not block.terminated[:, 1].any()
    np.testing.assert_array_equal(block.next_observations[1:, 0], block.observations[1:, 0])


@pytest.mark.parametrize("seed", [0, 1])
def test_an_infinite_threshold_is_the_learned_mdp(seed):
    """Every array of a roll-out, against a loop over paths and steps in float64."""
    task = toys.cart(bound=1.5)
    ensemble = _random_ensemble(task)
    pmdp = toys.pessimistic(task, ensemble, horizon=8)
    policy = GaussianPolicy(
        toys.plain_units(2, 1), (4,), -0.3, generator=np.random.default_rng(seed)
    )
    starts = np.random.default_rng(seed).uniform(-1, 1, (6, 2)).astype(np.float32)
    member = np.array([0, 1, 2, 2, 1, 0])
    block = _roll_out(pmdp, policy, starts, member, (seed, 7))
    noise = tf.random.stateless_normal([8, 6, 1], [seed, 7]).numpy()
    for k in range(6):
        state, over = starts[k].astype(np.float64), False
        for t in range(len(block.valid)):
            assert block.valid[t, k] == (not over)
            if over:
                continue
            np.testing.assert_allclose(block.observations[t, k], state, rtol=1e-4, atol=1e-5)
            drawn = toys.numpy_forward(policy.network, state[None])[0] + np.exp(-0.3) * noise[t, k]
            np.testing.assert_allclose(block.actions[t, k], drawn, rtol=1e-4, atol=1e-5)
            action = np.clip(drawn, -1.0, 1.0)
            given = (np.append(state, action) - ensemble.inputs.shift) / ensemble.inputs.scale
            outputs = np.stack([toys.numpy_forward(m, given[None])[0] for m in ensemble.members])
            distances = [np.linalg.norm(a - b) for a in outputs for b in outputs]
            assert block.disagreement[t, k] == pytest.approx(max(distances), rel=1e-3)
            after = state + ensemble.deltas.shift + ensemble.deltas.scale * outputs[member[k]]
            np.testing.assert_allclose(block.next_observations[t, k], after, rtol=1e-4, atol=1e-5)
            expected = toys.reward(state, action, after)
            assert block.rewards[t, k] == pytest.approx(expected, rel=1e-4, abs=1e-4)
            over = abs(after[0]) > 1.5
            assert block.terminated[t, k] == over
            assert not block.unknown[t, k]
            state = after
    # The case is worth its name only where some paths fall, some do not, and some action is cut.
    ended = block.terminated.any(axis=0)
    assert ended.any() and np.abs(block.actions).max() > 1.0


def test_threshold_zero_ends_at_the_first_step_with_the_penalty():
    ensemble = toys.hinged_ensemble(toys.cart(), edge=0.5)
    pmdp = toys.pessimistic(toys.cart(), ensemble, threshold=0.0, halt_reward=-53.5, horizon=9)
    block = _roll_out(pmdp, IDLE, [[0.7, 0.0], [-2.0, 1.0]], member=[0, 1])
    assert block.valid.shape == (1, 2)
    np.testing.assert_array_equal(block.rewards, [[-53.5, -53.5]])
    assert block.terminated.all() and block.unknown.all()


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("threshold", [0.5, np.inf])
def test_what_is_no_number_is_unknown(threshold, graph):
    pmdp = toys.pessimistic(toys.cart(), toys.hinged_ensemble(toys.cart()), threshold=threshold)

    def call(states):
        return _step(pmdp, states, np.zeros((3, 1)))

    states = tf.constant([[np.nan, 0.0], [0.5, np.nan], [0.5, 0.0]])
    found = (tf.function(call) if graph else call)(states)
    assert found.unknown.numpy().tolist() == [True, True, False]
    assert found.terminated.numpy().tolist() == [True, True, False]
    assert found.rewards[:2].numpy().tolist() == [-7.0, -7.0]


@pytest.mark.parametrize(("x", "unknown"), [(1.4999, False), (1.5, False), (1.5001, True)])
def test_unknown_means_strictly_above_the_threshold(x, unknown):
    # disc = (1 - 0) * (|x| - 1) = 0.5 at x = 1.5, exactly.
    pmdp = toys.pessimistic(toys.cart(), toys.hinged_ensemble(toys.cart()), threshold=0.5)
    assert bool(_step(pmdp, [[x, 0.0]], [[0.0]]).unknown) is unknown


@pytest.mark.parametrize(
    ("mean_reward", "paid"), [(-2.0, -8.0 + 9 * -2.0), (0.0, -8.0), (3.0, -8.0)]
)
def test_halt_is_no_way_out_of_what_the_other_steps_cost(mean_reward, paid):
    """The horizon is 10: nine steps remain after the first one, at the data's mean cost."""
    cart = toys.cart()
    pmdp = pessimistic_mdp.make(
        cart,
        physics="v2",
        ensemble=toys.hinged_ensemble(cart),
        weights=np.ones(2, np.float32),
        threshold=0.0,
        least_reward=-3.0,
        mean_reward=mean_reward,
        config=PmdpConfig(horizon=10, halt_offset=5.0),
    )
    block = _roll_out(pmdp, IDLE, [[2.0, 1.0]])
    assert block.rewards.tolist() == [[paid]]


def test_a_three_step_return_by_hand():
    """From x = 0.8, v = 2 with force 0.4; disc = max(|x| - 1, 0), threshold 0.1, HALT pays -7."""
    pmdp = toys.pessimistic(
        toys.cart(), toys.hinged_ensemble(toys.cart()), threshold=0.1, horizon=10
    )
    block = _roll_out(pmdp, toys.linear_policy(np.zeros((2, 1)), [0.4]), [[0.8, 2.0]])
    # v: 2, 2.2, 2.4; x: 0.8 -> 1.0 -> 1.22, where disc is 0.22 > 0.1. r = 1 + x' + 0.3 v - 0.1 a^2:
    # 1 + 1 + 0.6 - 0.016 and 1 + 1.22 + 0.66 - 0.016; then -7 in place of a reward, not on top.
    np.testing.assert_allclose(block.rewards[:, 0], [2.584, 2.864, -7.0], rtol=1e-5)
    np.testing.assert_allclose(block.disagreement[:, 0], [0.0, 0.0, 0.22], atol=1e-6)
    np.testing.assert_array_equal(block.unknown[:, 0], [False, False, True])
    np.testing.assert_array_equal(block.terminated[:, 0], [False, False, True])
    assert block.rewards.sum() == pytest.approx(-1.552, abs=1e-5)


def test_a_fall_ends_the_path_and_keeps_its_reward():
    task = toys.cart(bound=1.1)
    pmdp = toys.pessimistic(task, toys.hinged_ensemble(task, edge=5.0), horizon=10)
    block = _roll_out(pmdp, IDLE, [[0.8, 2.0]])
    # x' = 1.0, then 1.2 > 1.1: the second step still pays 1 + 1.2 + 0.6.
    np.testing.assert_allclose(block.rewards[:, 0], [2.6, 2.8], rtol=1e-5)
    np.testing.assert_array_equal(block.terminated[:, 0], [False, True])
    assert not block.unknown.any()


def test_halt_wins_where_an_unknown_pair_also_falls():
    task = toys.cart(bound=1.1)
    for value in (-7.0, 0.0, 12.5):
        pmdp = toys.pessimistic(task, toys.hinged_ensemble(task), 0.1, halt_reward=value)
        found = _step(pmdp, [[1.5, 0.0], [0.5, 0.0]], [[0.0], [0.0]])
        np.testing.assert_allclose(found.rewards, [value, 1.5])
        np.testing.assert_array_equal(found.terminated, [True, False])


def test_truncation_stays_in_the_last_known_state_and_never_terminates():
    """The authors' code (spec 2.4): paths are cut at HALT and at falls, without flag or penalty."""
    task = toys.cart(bound=3.0)
    pmdp = toys.pessimistic(
        task, toys.hinged_ensemble(task), threshold=0.1, horizon=5, halt="truncate"
    )
    block = _roll_out(pmdp, IDLE, [[2.0, 1.0], [0.0, 1.0], [2.9, 8.0]])
    # Path 0 meets an unknown pair, path 2 falls as well (2.9 + 0.8 > 3), path 1 goes on.
    np.testing.assert_array_equal(block.valid[1], [False, True, False])
    # What the models say of an unknown pair, 2.1 and 3.7, enters neither rewards nor states.
    np.testing.assert_allclose(block.rewards[0], [1 + 2.0 + 0.3, 1.4, 1 + 2.9 + 2.4], rtol=1e-5)
    np.testing.assert_allclose(block.next_observations[0], [[2, 1], [0.1, 1], [2.9, 8]], rtol=1e-5)
    assert not block.terminated.any()
    np.testing.assert_array_equal(block.unknown[0], [True, False, True])
    np.testing.assert_array_equal(block.rewards[1:, 0], np.zeros(4))


def test_truncation_without_a_detector_flags_falls():
    task = toys.cart(bound=3.0)
    pmdp = toys.pessimistic(task, toys.hinged_ensemble(task), horizon=5, halt="truncate")
    block = _roll_out(pmdp, IDLE, [[0.0, 1.0], [2.9, 8.0]])
    np.testing.assert_array_equal(block.terminated[0], [False, True])
    np.testing.assert_array_equal(block.valid[1], [True, False])


@pytest.mark.parametrize(("given", "seen"), [("clipped", 1.0), ("drawn", 5.0)])
def test_models_get_the_bound_or_the_draw(given, seen):
    """The reward is of what would be executed, the likelihood of what was drawn, either way."""
    task = toys.cart(bound=99.0)
    pmdp = toys.pessimistic(
        task, toys.hinged_ensemble(task, edge=50.0), horizon=1, model_actions=given
    )
    block = _roll_out(pmdp, toys.linear_policy(np.zeros((2, 1)), [5.0]), [[0.0, 0.0]])
    np.testing.assert_allclose(block.actions[0], [[5.0]])
    np.testing.assert_allclose(block.next_observations[0], [[0.0, toys.PUSH * seen]], rtol=1e-6)
    after = np.float32([[0.0, toys.PUSH * seen]])
    expected = toys.reward(np.zeros((1, 2), np.float32), np.ones((1, 1), np.float32), after)
    np.testing.assert_allclose(block.rewards[0], expected, rtol=1e-6)


def test_each_path_follows_its_own_member_to_its_end():
    ensemble = toys.hinged_ensemble(toys.cart(), gains=(0.0, 1.0, -0.5), edge=1.0)
    pmdp = toys.pessimistic(toys.cart(bound=99.0), ensemble, horizon=3)
    block = _roll_out(pmdp, IDLE, [[3.0, 0.0]] * 3, member=[0, 1, 2])
    # x - 1 grows by the factor 1 + gain at each step: 2 (1 + gain)^t.
    for gain, path in zip((0.0, 1.0, -0.5), block.next_observations.swapaxes(0, 1)):
        np.testing.assert_allclose(path[:, 0] - 1, 2 * (1 + gain) ** np.arange(1, 4), rtol=1e-5)


def test_rolling_out_stops_when_every_path_is_over():
    pmdp = toys.pessimistic(
        toys.cart(), toys.hinged_ensemble(toys.cart()), threshold=0.15, horizon=1000
    )
    block = _roll_out(pmdp, IDLE, [[0.8, 2.0], [0.9, 0.5], [5.0, 0.0]])
    # x passes 1.15 after 2 steps of 0.2 from 0.8, after 6 steps of 0.05 from 0.9, at once from 5.
    assert block.valid.shape == (7, 3)
    np.testing.assert_array_equal(block.valid.sum(axis=0), [3, 7, 1])
    # A mask of valid rows never comes back to life.
    assert (np.diff(block.valid.astype(int), axis=0) <= 0).all()


def test_the_policy_sees_clipped_velocities_and_the_model_true_ones():
    task = toys.cart(limit=2.0, bound=99.0)
    pmdp = toys.pessimistic(task, toys.hinged_ensemble(task, edge=50.0), horizon=2)
    policy = toys.linear_policy([[0.0], [0.1]], [0.0])  # a = 0.1 * the velocity that it sees
    block = _roll_out(pmdp, policy, [[0.0, 6.0], [0.0, -6.0]])
    np.testing.assert_allclose(block.observations[0], [[0.0, 2.0], [0.0, -2.0]])
    np.testing.assert_allclose(block.actions[0], [[0.2], [-0.2]], rtol=1e-6)
    # The state moves by the true velocity: 0.1 * 6; the next observation is clipped again.
    np.testing.assert_allclose(block.next_observations[0], [[0.6, 2.0], [-0.6, -2.0]], rtol=1e-6)
    # The reward is one of states: 1 + x' + 0.3 * 6 - 0.1 * 0.2^2.
    np.testing.assert_allclose(block.rewards[0], [3.396, -1.404], rtol=1e-5)
    np.testing.assert_allclose(block.observations[1], block.next_observations[0])


def test_observe_clips_velocities_alone():
    states = tf.constant([[50.0, 50.0], [-50.0, -50.0], [0.5, 0.5]])
    clipped = pessimistic_mdp.observe(toys.cart(limit=2.0), states)
    np.testing.assert_array_equal(clipped, [[50.0, 2.0], [-50.0, -2.0], [0.5, 0.5]])
    np.testing.assert_array_equal(pessimistic_mdp.observe(toys.cart(), states), states)


@pytest.mark.parametrize("covariance", ["fixed", "learned"])
def test_sampled_roll_outs_have_the_models_standard_deviation(covariance):
    log_std = np.log(0.3) if covariance == "learned" else None
    ensemble = toys.hinged_ensemble(toys.cart(), (0.0,), edge=1e6, log_std=log_std)
    ensemble.noise_std.assign([0.2, 0.7])
    ensemble.deltas = Statistics(np.zeros(2, np.float32), np.array([1.0, 2.0], np.float32))
    task = toys.cart(bound=1e6)
    pmdp = toys.pessimistic(task, ensemble, horizon=2, rollout_noise="sample")
    block = _roll_out(pmdp, IDLE, np.zeros((20000, 2)))
    v = block.observations[..., 1]
    mean = block.observations + np.stack([0.1 * v, 0 * v], axis=-1)
    noise = block.next_observations - mean
    # Standardised noise times the scale of the deltas, (1, 2); 20,000 draws: 0.5 % each.
    expected = [0.3, 0.6] if covariance == "learned" else [0.2, 1.4]
    np.testing.assert_allclose(noise.std(axis=1), [expected, expected], rtol=0.02)
    np.testing.assert_allclose(noise.mean(axis=1), 0.0, atol=0.04)
    # Draws of the two steps and of the two dimensions have nothing to do with one another.
    draws = noise.transpose(1, 0, 2).reshape(20000, 4)
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.03


def test_no_noise_means_the_mean():
    ensemble = toys.hinged_ensemble(toys.cart(), (0.0,), edge=1e6)
    ensemble.noise_std.assign([5.0, 5.0])
    block = _roll_out(toys.pessimistic(toys.cart(), ensemble, horizon=2), IDLE, [[0.5, 1.0]])
    np.testing.assert_allclose(block.next_observations[:, 0, 0], [0.6, 0.7], rtol=1e-6)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    task = toys.cart()
    pmdp = toys.pessimistic(task, _random_ensemble(task), 2.0, horizon=4, rollout_noise="sample")
    policy = GaussianPolicy(toys.plain_units(2, 1), (4,), 0.0)
    starts = np.random.default_rng(0).uniform(-1, 1, (5, 2))
    first, again = (_roll_out(pmdp, policy, starts, seed=(1, 2)) for _ in range(2))
    other = _roll_out(pmdp, policy, starts, seed=(1, 3))
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.actions[0], other.actions[0])


def test_groups_are_roll_outs_of_their_own_padded_to_the_longest():
    task = toys.cart(bound=1.5)
    pmdp = toys.pessimistic(task, _random_ensemble(task), np.inf, horizon=30)
    policy = GaussianPolicy(toys.plain_units(2, 1), (4,), 0.0)
    starts = np.random.default_rng(0).uniform(-1, 1, (6, 2)).astype(np.float32)
    member = [0, 1, 2, 0, 1, 2]
    grouped = pessimistic_mdp.roll_out_in_groups(
        pmdp,
        policy=policy,
        starts=tf.constant(starts),
        member=tf.constant(member),
        seed=tf.constant([3, 4]),
        groups=2,
    )
    parts = [
        _roll_out(pmdp, policy, starts[k : k + 3], member[k : k + 3], seed=(3, 4 + 2 * g))
        for g, k in enumerate((0, 3))
    ]
    lengths = [len(part.valid) for part in parts]
    assert lengths[0] != lengths[1]
    assert len(grouped.valid) == max(lengths)
    for g, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        for joined, alone in zip(grouped, part, strict=True):
            np.testing.assert_array_equal(joined.numpy()[:length, 3 * g : 3 * g + 3], alone)
        assert not grouped.valid.numpy()[length:, 3 * g : 3 * g + 3].any()


def test_whole_blocks_are_filled_with_zeros_and_xla_computes_them():
    task = toys.cart(bound=1.5)
    pmdp = toys.pessimistic(task, _random_ensemble(task), np.inf, horizon=30)
    policy = toys.linear_policy([[0.3], [-0.2]], [0.1])  # without noise: XLA draws another one
    starts = np.random.default_rng(0).uniform(-1, 1, (6, 2)).astype(np.float32)
    member = tf.constant([0, 1, 2, 0, 1, 2])

    def grouped(whole):
        return pessimistic_mdp.roll_out_in_groups(
            pmdp,
            policy=policy,
            starts=tf.constant(starts),
            member=member,
            seed=tf.constant([3, 4]),
            groups=2,
            whole=whole,
        )

    cut, whole = grouped(False), grouped(True)
    compiled = tf.function(lambda: grouped(True), jit_compile=True)()
    steps = len(cut.valid)
    assert 1 < steps < 30
    for short, full, fast in zip(cut, whole, compiled, strict=True):
        assert len(full) == 30
        # Products of fewer rows round otherwise: cut, paths that are over are left out.
        np.testing.assert_allclose(
            full.numpy()[:steps].astype(float), short.numpy().astype(float), atol=1e-6
        )
        assert not full.numpy()[steps:].any()
        assert not short.numpy()[~cut.valid.numpy()].any()
        np.testing.assert_allclose(
            fast.numpy().astype(float), full.numpy().astype(float), atol=1e-4
        )


def test_paths_do_not_leak_into_one_another():
    task = toys.cart(bound=1.5)
    pmdp = toys.pessimistic(task, _random_ensemble(task), 1.5, horizon=4)
    policy = toys.linear_policy([[0.3], [-0.2]], [0.1])
    starts = np.random.default_rng(0).uniform(-1, 1, (5, 2))
    together = _roll_out(pmdp, policy, starts, member=[0, 1, 2, 0, 1])
    alone = _roll_out(pmdp, policy, starts[2:3], member=[2])
    steps = len(alone.valid)
    np.testing.assert_allclose(alone.rewards[:, 0], together.rewards[:steps, 2], rtol=1e-4)
    np.testing.assert_array_equal(alone.valid[:, 0], together.valid[:steps, 2])


def _true_return(policy, reward, start, horizon, wind):
    """The real cart, whose wind blows back beyond |x| = 1; the models do not know it there."""
    state, total = np.array(start, np.float64), 0.0
    for _ in range(horizon):
        action = np.clip(policy.mean(state[None])[0], -1, 1)
        after = state + toys.change(state, action)
        after[0] -= wind * np.sign(state[0]) * max(abs(state[0]) - 1.0, 0.0)
        total += reward(state, action, after, "v2")
        state = after
    return total


def test_the_pessimistic_value_is_a_lower_bound_and_the_naive_one_is_not():
    """Members that disagree exactly where they are wrong: beyond |x| = 1.

    With rewards of at least 0, min_D(r) - offset < 0 is less than anything that can follow, and up to
    HALT both worlds are the same, so the bound holds for every policy, not only on average.
    """

    def reward(states, actions, next_states, physics):
        return abs(next_states[..., 0])

    task = toys.cart(bound=1e6, reward=reward)
    ensemble = toys.hinged_ensemble(task, gains=(0.05, 0.2))  # both dream of being blown outwards
    starts = np.tile([[0.0, 0.2], [0.5, -0.3], [-0.9, 0.0]], (2, 1))
    member = [0, 0, 0, 1, 1, 1]
    naive = toys.pessimistic(task, ensemble, np.inf, horizon=30)
    careful = toys.pessimistic(task, ensemble, 0.0, halt_reward=-0.5, horizon=30)
    rng = np.random.default_rng(0)
    values, cut = [], []
    for _ in range(8):
        policy = toys.linear_policy(rng.normal(size=(2, 1)), rng.normal(size=1))
        bounded, dreamt = (_roll_out(m, policy, starts, member) for m in (careful, naive))
        true = [_true_return(policy.numpy(), reward, s, 30, wind=0.3) for s in starts]
        values.append([bounded.rewards.sum(axis=0), true, dreamt.rewards.sum(axis=0)])
        cut.append(bounded.unknown.any(axis=0))
    bound, true, dream = np.moveaxis(np.array(values), 1, 0)
    cut = np.array(cut)
    assert (bound <= true + 1e-3).all()
    np.testing.assert_allclose(bound[~cut], true[~cut], rtol=1e-3)
    assert 0 < cut.sum() < cut.size
    # Where the models are left to dream, the naive value is no bound.
    assert (dream[cut] > true[cut] + 1.0).mean() > 0.8


LOG = LogSpec("time", "iso", (), (), 60.0)


@pytest.mark.parametrize(
    ("mix", "log", "share"), [(0.0, LOG, 0), (0.3, None, 0.3), (None, None, 0), (None, LOG, 1)]
)
def test_paths_start_where_episodes_do_unless_mixed_and_anywhere_in_a_log(mix, log, share):
    """The first four of a million rows: none of them comes up where all rows are drawn from."""
    task = dataclasses.replace(toys.cart(), log=log)
    pmdp = toys.pessimistic(task, toys.hinged_ensemble(task), paths_per_member=4000, start_mix=mix)
    found = pessimistic_mdp.start_rows(np.arange(4), 1_000_000, pmdp, np.random.default_rng(0))
    assert found.shape == (4000,) and found.max() < 1_000_000
    mixed = found >= 4
    assert mixed.mean() == pytest.approx(share, abs=0.03)
    if share < 1:
        shares = np.bincount(found[~mixed], minlength=4) / (~mixed).sum()
        np.testing.assert_allclose(shares, 0.25, atol=0.04)
    else:
        assert found.mean() == pytest.approx(500_000, rel=0.05)


def test_paths_follow_the_logs_set_points_and_remember_their_own_past():
    """Rewards of what the log says: the cart's second signal is given, 5 rows are one piece."""
    task = dataclasses.replace(
        toys.cart(),
        given=(1,),
        becomes=(-1, 1),
        reward=lambda s, a, n, physics: n[:, 1],
    )
    given = GivenSignals(
        (1,), np.array([[0.1], [0.2], [0.3], [0.4], [0.5]], np.float32), np.array([1, 2, 2, 4, 4])
    )
    pmdp = toys.pessimistic(task, toys.hinged_ensemble(task), horizon=3)._replace(given=given)
    block = pessimistic_mdp.roll_out(
        pmdp,
        policy=IDLE,
        starts=tf.constant([[0.0, 0.1], [0.0, 0.4]]),
        member=tf.constant([0, 1]),
        seed=tf.constant([1, 2]),
        rows=tf.constant([0, 3]),
    )
    np.testing.assert_allclose(block.rewards, [[0.2, 0.5], [0.3, 0.5], [0.3, 0.5]])
    np.testing.assert_allclose(block.observations[1:, :, 1], [[0.2, 0.5], [0.3, 0.5]])
    without = _roll_out(pmdp, IDLE, [[0.0, 0.1]])
    np.testing.assert_allclose(without.rewards[:, 0], 0.1)  # it stays as it is


def test_wrong_shapes_are_refused_at_the_door():
    pmdp = toys.pessimistic(toys.cart(), toys.hinged_ensemble(toys.cart()), horizon=2)
    with pytest.raises(ValueError, match="dimension|[Ss]hape"):
        _roll_out(pmdp, IDLE, np.zeros((3, 5)))
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        _roll_out(pmdp, IDLE, np.zeros((3, 2)), member=[0, 1])
