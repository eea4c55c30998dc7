import dataclasses
import inspect

import numpy as np
import pytest
import tensorflow as tf
import toys

from mopp_tf import algorithm, planner_config
from mopp_tf.config import BehaviorConfig, DynamicsConfig, ModelConfig, PlannerConfig
from mopp_tf.experiment import evaluation
from mopp_tf.models import autoregressive_density, autoregressive_network, rows
from mopp_tf.models.behavior import BehaviorModel
from mopp_tf.models.dynamics import DynamicsModel
from mopp_tf.objectives import Objective
from mopp_tf.planning import averaging, pruning, rollout
from mopp_tf.planning.planner import Planner
from offline_tf.models import compilation
from offline_tf.numerics.standardize import Statistics
from offline_tf.types import UserError

UNITS = rows.Normalizer(toys.identity(2), toys.identity(1), toys.identity(3))
MODEL = ModelConfig(encoder_hidden=(4,), head_hidden=(4,), precision="float32")
PLAIN = Objective(rows.RewardScale(0.0, 1.0))
TASK = toys.cart()
# x' = F x + G a; cost x^T W x + U a^2
F = np.array([[1.0, 0.1], [0.0, 1.0]], np.float32)
G = np.array([[0.0], [0.5]], np.float32)
W, U = np.diag([1.0, 0.2]).astype(np.float32), 0.3


def riccati(horizon):
    """Cost-to-go matrices P_horizon = W first (backwards), and the first gain of each."""
    cost, gains = W.astype(np.float64), []
    for _ in range(horizon):
        gain = np.linalg.solve(U + G.T @ cost @ G, G.T @ cost @ F)
        cost = W + F.T @ cost @ (F - G @ gain)
        gains.append(gain)
    return cost, gains[-1]


class LinearDynamics:
    """Members that know F and G; member i is off by offsets[i] in x' and by its half in reward."""

    def __init__(self, offsets=(0.0,)):
        self.offsets = offsets
        self.weights = []

    @property
    def size(self):
        return len(self.offsets)

    def bind(self, dtype=tf.float32, constant=False):
        def predict(states, actions):
            after = states @ F.T + actions @ G.T
            cost = tf.einsum("bi,ij,bj->b", states, W, states) + U * actions[:, 0] ** 2
            whole = tf.concat([after, -cost[:, None]], axis=1)
            shift = tf.constant([1.0, 0.0, 0.5])
            return tf.stack([whole + offset * shift for offset in self.offsets])

        return predict

    def next_states(self, states, outputs):
        return outputs[..., :2]

    def rewards(self, outputs):
        return outputs[..., 2]

    def uncertainty(self, outputs, units):
        return tf.reduce_max(outputs[..., 0], 0) - tf.reduce_min(outputs[..., 0], 0)


class Value:
    """Q_j(s, a) = -s^T P s + slope_j a."""

    def __init__(self, matrix=0.0 * W, slopes=(0.0, 0.0)):
        self.matrix = np.asarray(matrix, np.float32)
        self.slopes = slopes
        self.weights = []

    def bind(self, dtype=tf.float32, constant=False):
        def values(states, actions, twins=2):
            base = -tf.einsum("bi,ij,bj->b", states, self.matrix, states)
            return tf.stack([base + slope * actions[:, 0] for slope in self.slopes[:twins]])

        return values


def behavior(mean=0.0, members=1, log_std_raw=0.0):
    """A behaviour whose pre-squash mean is the same everywhere (0 for raw: std exp(-2.5))."""
    model = BehaviorModel(TASK, MODEL, BehaviorConfig(behavior_members=members), UNITS, 0)
    for variable in model.weights:
        variable.assign(tf.zeros_like(variable))
    for index, network in enumerate(model.members):
        bias = network.heads[0].layers[-1].bias.value
        bias.assign([mean * (1 - 2 * (index % 2)), log_std_raw])
    return model


KNOBS = PlannerConfig(
    population=500,
    horizon=3,
    sigma_max=1.0,
    max_q=False,
    q_proposals=1,
    inverse_temperature=3.0,
    planner_termination="none",
)


def planner(knobs=KNOBS, dynamics=None, q=None, limit=10.0, objective=PLAIN, task=TASK, act=None):
    models = rollout.Models(act or behavior(), dynamics or LinearDynamics(), q or Value(W))
    return Planner(task, models=models, knobs=knobs, limit=limit, objective=objective)


def decide(made, observation, plan=None, seed=(1, 2)):
    observation = tf.constant(observation, tf.float32)
    plan = made.initial_plan(observation) if plan is None else tf.constant(plan, tf.float32)
    return made.decide(observation, plan, tf.constant(seed, tf.int32))


def standard(shape, seed=(0, 1)):
    return autoregressive_density.Noise.draw(shape, 1, tf.constant(seed))


STATES = np.array([[0.5, 0.1], [-0.4, 0.3], [0.2, -0.6]], np.float32)


def roll_out(models, knobs, noise, states=STATES, task=TASK, objective=PLAIN):
    """One trajectory per state, without an old plan."""
    return rollout.roll_out(
        task,
        models=models,
        bound=rollout.Bound.of(models, tf.float32),
        objective=objective,
        knobs=knobs,
        states=tf.constant(states),
        plan=tf.zeros([len(states), knobs.horizon, 1]),
        noise=noise,
    )


def test_nears_the_riccati_solution_as_candidates_and_temperature_grow():
    cost, gain = riccati(3)
    exact = -(STATES @ gain.T)
    assert np.abs(exact).max() < 0.9
    errors = []
    for population, temperature in ((20, 1.0), (300, 3.0), (10_000, 10.0)):
        knobs = dataclasses.replace(KNOBS, population=population, inverse_temperature=temperature)
        found = [decide(planner(knobs), STATES, seed=(s, 0)).action.numpy() for s in range(5)]
        errors.append(float(np.abs(np.array(found) - exact).mean()))
    assert errors[0] > 1.5 * errors[1] > 2.0 * errors[2]
    assert errors[2] < 0.08


def test_a_return_by_hand():
    """The return of each candidate is that of its own actions, rolled out in numpy."""
    made = planner(q=Value(np.eye(2)))
    knobs = made.knobs
    models = rollout.Models(behavior(), LinearDynamics((0.0, 0.2)), Value(np.eye(2)))
    members = np.array([[0, 1], [0, 0], [0, 1], [0, 0]], np.int32)
    noise = made.noise(1, tf.constant([3, 4]))._replace(
        members=tf.constant(members), proposals=standard((3, 1, 3, 1), [5, 6])
    )
    found = roll_out(models, knobs, noise)
    for row in range(3):
        state, total = STATES[row].astype(np.float64), 0.0
        for t in range(3):
            action = found.actions[row, t].numpy().astype(np.float64)
            cost = state @ W @ state + U * action[0] ** 2
            total += -cost + np.mean([0.0, 0.1])  # rewards are the ensemble's mean
            state = F @ state + G @ action
            state[0] += (0.0, 0.2)[members[t, 1]]  # the next state is one member's
            np.testing.assert_allclose(found.states[row, t + 1], state, rtol=1e-5, atol=1e-6)
        total += -(state @ state)
        np.testing.assert_allclose(found.returns[row], total, rtol=1e-4)
    np.testing.assert_allclose(found.disagreement, 0.2, rtol=1e-5)


def test_each_proposal_is_drawn_and_valued_at_its_own_state():
    """A behaviour and a Q function that depend on the state, against a loop over rows."""

    class Curved(Value):
        """Q_j(s, a) = -(a - x)^2 + j (v + 2 a)."""

        def bind(self, dtype=tf.float32, constant=False):
            def values(states, actions, twins=2):
                base = -tf.square(actions[:, 0] - states[:, 0])
                tilt = states[:, 1] + 2.0 * actions[:, 0]
                return tf.stack([base + j * tilt for j in range(twins)])

            return values

    def curved(state, action):
        return -((action - state[0]) ** 2) + np.array([0.0, state[1] + 2.0 * action])

    units = UNITS._replace(
        states=Statistics(np.array([0.3, -0.2], np.float32), np.array([0.5, 2.0], np.float32))
    )
    act = BehaviorModel(TASK, MODEL, BehaviorConfig(behavior_members=2), units, 0)
    rng = np.random.default_rng(1)
    for weight in act.weights:
        weight.assign(rng.normal(scale=0.8, size=weight.shape))
    knobs = dataclasses.replace(
        KNOBS, horizon=3, max_q=True, q_proposals=4, q_of_proposals="min", sigma_max=0.7
    )
    made = planner(knobs, LinearDynamics((0.0, 0.2)), Curved(W), act=act)
    models = rollout.Models(act, LinearDynamics((0.0, 0.2)), Curved(W))
    members = np.array([[0, 1], [1, 0], [0, 0], [1, 0]], np.int32)
    noise = made.noise(1, tf.constant([3, 4]))._replace(
        members=tf.constant(members), proposals=standard((3, 4, 3, 1), [5, 6])
    )
    found = roll_out(models, knobs, noise)

    def mean_and_std(member, state):
        given = ((state - [0.3, -0.2]) / [0.5, 2.0]).astype(np.float32)
        parameters, _ = act.densities()[member].modes(tf.constant(given[None]))
        return (float(x[0, 0]) for x in autoregressive_density.best_component(parameters))

    chosen = []
    for row in range(3):
        state, total = STATES[row].astype(np.float64), 0.0
        for t in range(3):
            mean, _ = mean_and_std(members[t, 0], state)  # the one std becomes sigma_max
            draws = np.tanh(mean + 0.7 * noise.proposals.normal[t, :, row, 0].numpy())
            chosen.append(int(np.argmax([curved(state, a).min() for a in draws])))
            action = draws[chosen[-1]]
            np.testing.assert_allclose(found.actions[row, t, 0], action, rtol=1e-4, atol=1e-5)
            total += -(state @ W @ state + U * action**2) + 0.05
            state = F @ state + G[:, 0] * action
            state[0] += (0.0, 0.2)[members[t, 1]]
            np.testing.assert_allclose(found.states[row, t + 1], state, rtol=1e-4, atol=1e-5)
        mean, std = mean_and_std(members[3, 0], state)  # as wide as the model says
        last = np.tanh(mean + std * noise.value.normal[:, 0, 0].numpy())
        total += np.mean([curved(state, a) for a in last])
        np.testing.assert_allclose(found.returns[row], total, rtol=1e-4, atol=1e-5)
    assert len(set(chosen)) > 2


def test_a_decisions_numbers_are_those_of_its_candidates():
    """Weighted means over what is kept, worked out again from weights, states and actions."""

    class Doubtful(LinearDynamics):
        def uncertainty(self, outputs, units):
            return tf.abs(outputs[0, :, 1])  # |v'|

    knobs = dataclasses.replace(KNOBS, population=200, inverse_temperature=0.5)
    found = decide(planner(knobs, Doubtful(), limit=0.7), STATES)
    doubt = np.abs(found.states[:, :, 1:, 1].numpy())  # [E, N, H]
    keep = (doubt <= 0.7).all(axis=2)
    np.testing.assert_array_equal(found.keep, keep)
    assert not found.fallback.numpy().any() and 0.2 < keep.mean() < 0.9
    np.testing.assert_allclose(found.kept_share, keep.mean(axis=1), rtol=1e-6)
    for env in range(3):
        returns, kept = found.returns[env].numpy(), keep[env]
        weights = np.exp((returns - returns[kept].max())[kept] * 0.5 / returns[kept].std())
        weights /= weights.sum()
        np.testing.assert_allclose(found.weights[env].numpy()[kept], weights, rtol=1e-4)
        np.testing.assert_allclose(found.expected_return[env], weights @ returns[kept], rtol=1e-4)
        np.testing.assert_allclose(
            found.disagreement[env], weights @ doubt[env][kept], rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(found.return_spread[env], returns[kept].std(), rtol=1e-4)
        np.testing.assert_allclose(
            found.effective_sample_size[env], 1.0 / np.square(weights).sum(), rtol=1e-4
        )
        entropy = -(weights * np.log(weights)).sum()
        np.testing.assert_allclose(found.weight_entropy[env], entropy, rtol=1e-4)
        best = np.flatnonzero(kept)[np.argmax(weights)]
        np.testing.assert_array_equal(found.trajectory[env], found.states[env, best])
    # None of these is what all candidates alike would give.
    plain = doubt.mean(axis=1)
    assert np.abs(found.disagreement.numpy() - plain).max() > 0.05


class OfActions(Value):
    """Q_j(s, a) = a, 3 a."""

    def bind(self, dtype=tf.float32, constant=False):
        return lambda states, actions, twins=2: tf.stack([actions[:, 0], 3.0 * actions[:, 0]])


@pytest.mark.parametrize(("groups", "components"), [(1, 2), (3, 1)])
def test_candidates_are_valued_with_one_noise_or_each_with_its_own(groups, components):
    """All last states are the same: returns are means of K_Q draws, 0 +- 2 std / sqrt(K_Q)."""

    class Still(LinearDynamics):
        def next_states(self, states, outputs):
            return 0.0 * states

        def rewards(self, outputs):
            return 0.0 * outputs[..., 2]

    act = BehaviorModel(TASK, MODEL, BehaviorConfig(components=components), UNITS, 0)
    for variable in act.weights:
        variable.assign(tf.zeros_like(variable))
    knobs = dataclasses.replace(KNOBS, horizon=1, q_proposals=4, population=500)
    found = {}
    for kind in ("common", "own"):
        made = planner(dataclasses.replace(knobs, value_noise=kind), Still(), OfActions(W), act=act)
        made.groups = groups
        found[kind] = decide(made, STATES).returns.numpy()
    assert np.ptp(found["common"]) < 1e-6 < np.abs(found["common"]).max()
    own, std = found["own"], np.exp(-2.5)
    np.testing.assert_allclose(own.std(axis=1), 2.0 * std / np.sqrt(4.0), rtol=0.1)
    flat = own.ravel()
    assert len(np.unique(flat)) == len(flat)
    assert abs(np.corrcoef(own)[0, 1]) < 0.15 and abs(flat.mean()) < 0.02


@pytest.mark.parametrize("noise", ["before", "after"])
def test_equal_last_states_have_equal_values(noise):
    """Values are told apart by states: every candidate's actions carry the same noise."""
    knobs = dataclasses.replace(KNOBS, q_proposals=4, noise=noise)
    models = rollout.Models(behavior(), LinearDynamics(), OfActions(W))
    states = tf.constant(np.repeat(STATES, 5, axis=0))
    found = [
        rollout.state_value(
            models,
            bound=rollout.Bound.of(models, tf.float32),
            states=states,
            knobs=knobs,
            member=0,
            noise=standard((4, 1, 1), [seed, 0]),
        ).numpy()
        for seed in (1, 2)
    ]
    for values in found:
        np.testing.assert_allclose(values.reshape(3, 5), values.reshape(3, 5)[:, :1] + np.zeros(5))
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not():
    made = planner()
    first, again, other = (decide(made, STATES, seed=s) for s in ((1, 2), (1, 2), (1, 3)))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(first.action - other.action).max() > 1e-4


def test_xla_decides_the_same():
    """The noise is given: XLA draws another one."""
    made = planner(dataclasses.replace(KNOBS, population=20), LinearDynamics((0.0, 0.2)))
    compiled = compilation.function(made.decide_given, jit_compile=True)
    plan = made.initial_plan(tf.constant(STATES))
    for seed in range(4):  # other members at other steps
        noise = made.noise(3, tf.constant([seed, 0]))
        expected = made.decide_given(tf.constant(STATES), plan, noise)
        found = compiled(tf.constant(STATES), plan, noise)
        np.testing.assert_allclose(found.action, expected.action, atol=1e-5)
        np.testing.assert_allclose(found.states, expected.states, rtol=1e-4, atol=1e-5)


def test_environments_of_a_batch_do_not_leak():
    made = planner()
    changed = STATES.copy()
    changed[1] += 5.0
    first, second = decide(made, STATES), decide(made, changed)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.numpy()[[0, 2]], b.numpy()[[0, 2]])
    assert np.abs(first.action[1] - second.action[1]).max() > 1e-3
    plan = np.zeros((3, 3, 1), np.float32)
    mixed = planner(dataclasses.replace(KNOBS, plan_mix=0.5))
    other = plan.copy()
    other[1] = 1.0
    first, second = decide(mixed, STATES, plan), decide(mixed, STATES, other)
    np.testing.assert_array_equal(first.action.numpy()[[0, 2]], second.action.numpy()[[0, 2]])
    assert np.abs(first.action[1] - second.action[1]) > 0.1


def test_without_plan_mix_the_old_plan_does_not_matter_and_with_all_of_it_nothing_else_does():
    plan = np.random.default_rng(0).uniform(-1, 1, (3, 3, 1)).astype(np.float32)
    plain = planner()
    np.testing.assert_array_equal(
        decide(plain, STATES, plan).action, decide(plain, STATES, 0 * plan).action
    )
    whole = planner(dataclasses.replace(KNOBS, plan_mix=1.0))
    found = decide(whole, STATES, plan)
    np.testing.assert_allclose(found.action, plan[:, 0], atol=1e-5)
    # Shifted by one step, the last row repeated.
    np.testing.assert_allclose(found.plan, plan[:, [1, 2, 2]], atol=1e-5)


def test_the_initial_plan_is_the_first_members_mode():
    made = planner(act=behavior(mean=0.7, members=2))
    found = made.initial_plan(tf.constant(STATES))
    np.testing.assert_allclose(found, np.full((3, 3, 1), np.tanh(0.7)), rtol=1e-6)


@pytest.mark.parametrize("sigma", [0.1, 0.6])
def test_boosted_proposals_have_the_asked_spread_before_the_squash(sigma):
    knobs = dataclasses.replace(KNOBS, sigma_max=sigma)
    model = behavior(mean=0.3)
    proposals = rollout.propose(
        model.densities()[0], tf.zeros([4000, 2]), standard((5, 4000, 1)), knobs, sigma
    )
    assert proposals.shape == (5, 4000, 1)
    before = np.arctanh(proposals.numpy())
    np.testing.assert_allclose(before.mean(), 0.3, atol=0.02)
    np.testing.assert_allclose(before.std(), sigma, rtol=0.03)
    natural = rollout.propose(
        model.densities()[0], tf.zeros([4000, 2]), standard((5, 4000, 1)), knobs, 0.0
    )
    np.testing.assert_allclose(np.arctanh(natural.numpy()).std(), np.exp(-2.5), rtol=0.03)


def test_no_component_of_a_mixture_is_boosted_beyond_sigma():
    """The likeliest has exp(-2.5), the other, which one draw in twenty takes, 1."""
    model = BehaviorModel(TASK, MODEL, BehaviorConfig(behavior_members=1, components=2), UNITS, 0)
    for variable in model.weights:
        variable.assign(tf.zeros_like(variable))
    model.members[0].heads[0].layers[-1].bias.value.assign([3.0, 0.0, 0.0, 0.0, 0.0, 50.0])
    noise = autoregressive_density.Noise.draw([1, 4000, 1], 2, [0, 1])
    (drawn,) = rollout.propose(model.densities()[0], tf.zeros([4000, 2]), noise, KNOBS, 0.2)
    before, narrow = np.abs(np.arctanh(drawn.numpy()[:, 0])), 0.2 * np.exp(-2.5)
    assert (before > 5 * narrow).mean() > 0.01  # the wide one has been drawn
    assert before.max() < 5 * 0.2 and np.median(before) < narrow


def test_noise_after_the_squash_is_added_to_the_mode():
    knobs = dataclasses.replace(KNOBS, noise="after")
    found = rollout.propose(
        behavior(mean=0.3).densities()[0],
        tf.zeros([4000, 2]),
        standard((5, 4000, 1)),
        knobs,
        0.1,
    ).numpy()
    np.testing.assert_allclose(found.mean(), np.tanh(0.3), atol=0.01)
    np.testing.assert_allclose(found.std(), 0.1, rtol=0.03)


@pytest.mark.parametrize("shared", [False, True])
def test_ancestral_proposals_equal_a_loop_over_draws_rows_and_heads(shared):
    """Each head sees the draws of the heads before it; the boost comes from the chain of modes."""
    rng = np.random.default_rng(0)
    network = autoregressive_network.AutoregressiveNetwork(
        2, order=(2, 0, 1), latent_dim=4, encoder_hidden=(6,), head_hidden=(5,), seed=3
    )
    for weight in network.weights:
        weight.assign(rng.normal(scale=0.6, size=weight.shape))
    inputs = rng.normal(size=(5, 2)).astype(np.float32)
    noise = rng.normal(size=(4, 1 if shared else 5, 3)).astype(np.float32)

    def chain(row, boost, own):
        latent, values, stds = network.encoder(row[None]).numpy(), {}, {}
        for head, dim in zip(network.heads, network.order):
            earlier = [[values[d] for d in network.order if d in values]]
            mean, raw = head(np.concatenate([latent, np.float32(earlier).reshape(1, -1)], 1))[0]
            stds[dim] = np.exp(-5.0 + 2.5 * (np.tanh(raw) + 1.0))
            values[dim] = np.tanh(mean + boost * stds[dim] * own[dim])
        return [values[d] for d in range(3)], stds

    expected = np.zeros((4, 5, 3))
    for b, row in enumerate(inputs):
        _, stds = chain(row, 0.0, np.zeros(3))
        boost = 0.8 / max(stds.values())
        for k in range(4):
            expected[k, b], _ = chain(row, boost, noise[k, 0 if shared else b])
    knobs = dataclasses.replace(KNOBS, proposals="ancestral")
    density = autoregressive_density.density(
        autoregressive_density.read(network), 3, True, "teacher"
    )
    found = rollout.propose(
        density,
        tf.constant(inputs),
        autoregressive_density.Noise(tf.constant(noise), None),
        knobs,
        0.8,
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected, axis=(0, 1)).min() > 0.1


def test_noise_after_the_squash_and_ancestral_draws_exclude_each_other():
    with pytest.raises(UserError, match="^--uncertainty_penalty: expected 0 with --noprune"):
        PlannerConfig(prune=False, uncertainty_penalty=1.0)
    with pytest.raises(UserError, match="^--noise: expected before with --proposals=ancestral"):
        dataclasses.replace(KNOBS, noise="after", proposals="ancestral")


def test_boost_makes_the_largest_sigma_and_keeps_ratios():
    std = tf.constant([[0.1, 0.2, 0.4], [0.3, 0.3, 0.1]])
    scaled = std * rollout.boost(std, 0.8)[:, None]
    np.testing.assert_allclose(scaled, [[0.2, 0.4, 0.8], [0.8, 0.8, 0.8 / 3]], rtol=1e-6)
    np.testing.assert_array_equal(rollout.boost(std, 0.0), [1.0, 1.0])


def test_max_q_takes_the_best_proposal_of_each_row():
    bound = rollout.Bound([], None, Value(slopes=(1.0, -3.0)).bind())
    proposals = tf.constant([[[0.1], [0.5]], [[0.4], [-0.2]], [[-0.2], [0.0]]])
    states = tf.zeros([2, 2])
    for rule, expected in (
        ("first", [[0.4], [0.5]]),  # slope 1
        ("mean", [[-0.2], [-0.2]]),  # slope -1
        ("min", [[-0.2], [0.0]]),  # min(a, -3 a): -0.3, -1.2, -0.2 and -1.5, -0.2, 0
    ):
        found = rollout.choose_by_q(bound, states, proposals, rule)
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=rule)


def test_max_q_moves_actions_up_the_slope_of_q():
    best_of_ten = np.random.default_rng(0).normal(size=(100_000, 10)).max(axis=1)
    for slope in (1.0, -1.0):
        knobs = dataclasses.replace(
            KNOBS, max_q=True, q_proposals=10, inverse_temperature=0.0, horizon=1
        )
        made = planner(knobs, q=Value(slopes=(slope, slope)))
        found = decide(made, 0.0 * STATES).action.numpy()
        np.testing.assert_allclose(slope * found, np.tanh(best_of_ten).mean(), atol=0.025)


def test_terminal_value_is_the_mean_of_both_twins_and_can_be_left_out():
    knobs = dataclasses.replace(
        KNOBS, horizon=1, q_proposals=4000, population=2, sigma_max=1e-6, terminal_value=True
    )
    act = behavior(mean=0.5)
    made = planner(knobs, q=Value(slopes=(1.0, 3.0)), act=act)
    with_value = decide(made, STATES).returns.numpy()
    without = decide(
        planner(
            dataclasses.replace(knobs, terminal_value=False), q=Value(slopes=(1.0, 3.0)), act=act
        ),
        STATES,
    ).returns.numpy()
    # Actions of the value have the model's own spread around 0.5.
    noise = 0.5 + np.exp(-2.5) * np.random.default_rng(0).normal(size=200_000)
    expected = 2.0 * np.tanh(noise).mean()
    np.testing.assert_allclose(with_value - without, expected, atol=0.01)


def test_the_planners_knobs_reach_what_they_are_of(monkeypatch):
    """With the values of --preset=authors, which are no defaults."""
    seen = {"units": set(), "rules": set()}

    class Units(LinearDynamics):
        def uncertainty(self, outputs, units):
            seen["units"].add(units)
            return super().uncertainty(outputs, units)

    def noted(module, name, note):
        plain = getattr(module, name)

        def call(*args, **kwargs):
            note(inspect.signature(plain).bind(*args, **kwargs).arguments)
            return plain(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    noted(pruning, "prune", lambda given: seen.update(prune=given))
    noted(averaging, "weighted_average", lambda given: seen.update(average=given))
    noted(rollout, "choose_by_q", lambda given: seen["rules"].add(given["rule"]))
    knobs = dataclasses.replace(
        KNOBS,
        horizon=1,
        population=10,
        max_q=True,
        q_of_proposals="first",
        temperature_units="absolute",
        fallback="replace",
        uncertainty_units="raw",
        least_kept=0.4,
    )
    made = planner(knobs, Units((0.0, 0.2)), limit=0.7)
    decide(made, STATES)
    made.step(tf.constant(STATES), tf.zeros([3, 1]))
    assert seen["units"] == {"raw"} and seen["rules"] == {"first"}
    assert [seen["prune"][name] for name in ("limit", "least", "rule")] == [0.7, 4, "replace"]
    assert seen["average"]["inverse_temperature"] == 3.0 and not seen["average"]["relative"]


def test_a_predicted_fall_ends_rewards_and_value():
    narrow = toys.cart(bound=0.55)
    start = np.array([[0.5, 5.0]], np.float32)  # x' = 1.0 at the first step
    returns = {}
    for rule in ("task", "none"):
        knobs = dataclasses.replace(KNOBS, planner_termination=rule, population=50)
        returns[rule] = decide(planner(knobs, task=narrow), start)
    first = -(start[0] @ W @ start[0])
    # Only the first step counts: its cost is the state's plus 0.3 a^2, with a in (-1, 1).
    found = returns["task"].returns.numpy()
    assert (found <= first + 1e-5).all() and (found >= first - U).all()
    assert (returns["none"].returns.numpy() < first - 5.0).all()


def test_pruned_candidates_have_no_weight_and_the_fallback_is_told():
    class Doubtful(LinearDynamics):
        def uncertainty(self, outputs, units):
            # More speed after the step, more doubt: half of the proposals or so are above 0.
            return outputs[0, :, 1]

    knobs = dataclasses.replace(KNOBS, horizon=1, inverse_temperature=0.0, population=400)
    at_rest = np.zeros((2, 2), np.float32)
    made = planner(knobs, Doubtful((0.0, 0.0)), limit=0.0)
    found = decide(made, at_rest)
    keep = found.keep.numpy()
    np.testing.assert_allclose(keep.mean(axis=1), 0.5, atol=0.08)
    assert (found.weights.numpy()[~keep] == 0.0).all() and not found.fallback.numpy().any()
    assert (found.action.numpy() < -0.3).all()
    none = decide(planner(knobs, Doubtful((0.0, 0.0)), limit=-10.0), at_rest)
    assert none.fallback.numpy().all()
    np.testing.assert_allclose(none.kept_share, knobs.least_kept)
    everything = planner(dataclasses.replace(knobs, prune=False), Doubtful((0.0, 0.0)), limit=0.0)
    np.testing.assert_array_equal(decide(everything, at_rest).kept_share, [1.0, 1.0])


@pytest.mark.parametrize(
    ("limit", "least", "fell"),
    [(-10.0, 0.2, [1, 1, 1]), (10.0, 0.2, [0, 0, 0]), (0.3, 0.8, [1, 1, 0])],
)
def test_the_penalty_is_paid_for_doubt_above_the_limit_where_the_fallback_chose(limit, least, fell):
    class Doubtful(LinearDynamics):
        def uncertainty(self, outputs, units):
            return outputs[0, :, 1]

    knobs = dataclasses.replace(KNOBS, horizon=2, least_kept=least)
    found, paid = (
        decide(
            planner(dataclasses.replace(knobs, uncertainty_penalty=p), Doubtful(), limit=limit),
            STATES,
        )
        for p in (0.0, 2.0)
    )
    np.testing.assert_array_equal(paid.fallback, fell)
    models = rollout.Models(behavior(), Doubtful(), Value(W))
    noise = planner(knobs).noise(3, tf.constant([1, 2]))
    flat = noise.proposals.each(lambda x: tf.reshape(x, [2, 1, 1500, 1]))
    noise = noise._replace(proposals=flat)
    doubt = roll_out(models, knobs, noise, np.repeat(STATES, 500, axis=0)).disagreement
    doubt = doubt.numpy().reshape(3, 500, 2)
    expected = 2.0 * np.where(doubt > limit, doubt, 0.0).sum(axis=2) * np.array(fell)[:, None]
    np.testing.assert_allclose(found.returns - paid.returns, expected, atol=1e-4)


def test_a_broken_prediction_does_not_reach_the_plan():
    class Broken(LinearDynamics):
        def next_states(self, states, outputs):
            after = outputs[..., :2]
            return tf.where(after[:, 1:] > 0.0, float("nan"), after)

    found = decide(planner(dynamics=Broken()), 0.0 * STATES)
    assert np.isfinite(found.action).all() and np.isfinite(found.plan).all()
    assert np.isfinite(found.expected_return).all() and np.isfinite(found.disagreement).all()
    assert 0.0 < found.kept_share.numpy().max() < 1.0


def test_another_reward_and_a_hard_constraint_change_the_plan_at_once():
    knobs = dataclasses.replace(KNOBS, horizon=1, inverse_temperature=20.0, population=2000)
    push = Objective(rows.RewardScale(0.0, 1.0), reward=lambda s, a, n: 10.0 * a[:, 0])
    pushed = decide(planner(knobs, objective=push), 0.0 * STATES).action.numpy()
    assert (pushed > 0.8).all()
    slow = dataclasses.replace(push, constraint=lambda s, a, n: n[:, 1] - 0.1)
    held = decide(planner(knobs, objective=slow), 0.0 * STATES)
    # v' = 0.5 a <= 0.1
    assert (held.action.numpy() <= 0.2 + 1e-6).all() and (held.action.numpy() > 0.1).all()


def test_forecasts_tell_the_reward_that_candidates_are_paid():
    at = np.float32([[0.5, 1.0]]), np.float32([[0.2]])
    plain = planner(KNOBS).forecast(*at)
    own = Objective(rows.RewardScale(2.0, 4.0), of_task=lambda s, a, n: n[:, 0] + a[:, 0])
    paid = planner(KNOBS, objective=own).forecast(*at)
    np.testing.assert_array_equal(paid.next_states, plain.next_states)
    expected = (plain.next_states.numpy()[..., 0] + 0.2 - 2.0) / 4.0  # [K, 1]
    np.testing.assert_allclose(paid.rewards, expected, rtol=1e-6)
    assert (np.abs(paid.rewards - plain.rewards) > 0.01).all()


@pytest.mark.parametrize("rule", ["task", "none"])
def test_violations_add_up_over_the_steps_before_a_predicted_end(rule):
    knobs = dataclasses.replace(KNOBS, planner_termination=rule)
    models = rollout.Models(behavior(), LinearDynamics((0.0, 0.0)), Value(W))
    limited = Objective(rows.RewardScale(0.0, 1.0), constraint=lambda s, a, n: n[:, 0] - 0.2)
    # Breaks it from the first step on, and ends at x = 0.55 or so; late; never.
    starts = np.array([[0.3, 2.0], [0.1, 0.9], [-0.4, -0.3]], np.float32)
    noise = planner(knobs).noise(1, tf.constant([3, 4]))._replace(proposals=standard((3, 1, 3, 1)))
    found = roll_out(models, knobs, noise, starts, toys.cart(bound=0.55), limited)
    x = found.states.numpy()[:, 1:, 0]
    broken = np.maximum(x - 0.2, 0.0)
    over = np.cumsum(x > 0.55, axis=1) - (x > 0.55) > 0
    assert over[0].any() and (broken[1] > 0).any() and not broken[1, 0] and not broken[2].any()
    expected = (broken * ~over if rule == "task" else broken).sum(axis=1)
    np.testing.assert_allclose(found.violation, expected, rtol=1e-5, atol=1e-6)


WIDE = dataclasses.replace(
    TASK, action_low=np.array([0.0], np.float32), action_high=np.array([4.0], np.float32)
)


def test_behaviour_cloning_acts_by_the_mean_of_the_members_modes():
    act = behavior(members=2)
    for network, mean in zip(act.members, (0.3, -1.2), strict=True):
        network.heads[0].layers[-1].bias.value.assign([mean, 0.0])
    decide_by_clone = evaluation.clone_decider(WIDE, act)
    action, memory, numbers = decide_by_clone(tf.constant(STATES), "kept", tf.constant([0, 0]))
    expected = 2.0 + 2.0 * np.mean(np.tanh([0.3, -1.2]))
    np.testing.assert_allclose(action, np.full((3, 1), expected), rtol=1e-6)
    assert memory == "kept" and numbers == {}


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_the_clone_as_a_planner_is_the_clone_to_the_bit(dtype):
    act = behavior(members=2)
    rng = np.random.default_rng(4)
    for weight in act.weights:
        weight.assign(rng.normal(scale=0.8, size=weight.shape))
    dynamics = LinearDynamics((0.0, 0.4))
    models = rollout.Models(act, dynamics, Value(W))
    clone = dataclasses.replace(KNOBS, plan="never", sigma_max=None, plan_mix=0.5)
    made = Planner(
        WIDE,
        models=models,
        knobs=planner_config.for_clone(clone),
        limit=0.1,
        objective=PLAIN,
        dtype=dtype,
    )
    action, _, _ = evaluation.clone_decider(WIDE, act)(tf.constant(STATES), None, None)
    plan, seed = made.initial_plan(tf.constant(STATES)), tf.constant([1, 2])
    found = compilation.function(made.decide)(tf.constant(STATES), plan, seed)
    np.testing.assert_array_equal(found.action, action)
    assert len(np.unique(found.action)) == 3
    # Its own path is the one candidate; what the models do not know there is told.
    assert found.states.shape == (3, 1, 4, 2) and found.plan.shape == (3, 3, 1)
    np.testing.assert_array_equal(found.kept_share, [1.0] * 3)
    assert found.fallback.numpy().all()
    np.testing.assert_allclose(found.disagreement, np.full((3, 3), 0.4), rtol=1e-5)
    np.testing.assert_allclose(found.expected_return, found.returns[:, 0], rtol=1e-6)
    path = found.states[:, 0].numpy()
    after = act.clone()(tf.constant(path[:, 1])).numpy()
    np.testing.assert_allclose(found.plan[:, 0], after, rtol=1e-5)


def test_without_a_simulator_numbers_come_in_the_datas_units():
    class Steady(LinearDynamics):
        def rewards(self, outputs):
            return 0.0 * outputs[..., 2] + 0.25

    class Constant(Value):
        def bind(self, dtype=tf.float32, constant=False):
            return lambda states, actions, twins=2: tf.fill([twins, tf.shape(states)[0]], 2.0)

    scale = rows.RewardScale(-1.0, 8.0)  # a reward of 0.25 is 1 above the least
    made = planner(dataclasses.replace(KNOBS, population=10), Steady(), Constant())
    models = rollout.Models(behavior(), Steady(), Constant())
    data = toys.transitions((2, 3))
    found = evaluation.judge_offline(
        made, algorithm.Learned(models, scale, 10.0, KNOBS), data, discount=0.5, seed=0
    )
    np.testing.assert_allclose(found["expected_return"], 8.0 * (3 * 0.25 + 2.0), rtol=1e-6)
    np.testing.assert_allclose(found["fqe_value"], 8.0 * 2.0, rtol=1e-6)
    r = data.rewards.astype(np.float64) + 1.0
    expected = (r[0] + 0.5 * r[1] + r[2] + 0.5 * r[3] + 0.25 * r[4]) / 2
    np.testing.assert_allclose(found["data_value"], expected, rtol=1e-6)
    assert found["kept_share"] == 1.0 and found["fallback"] == 0.0


def test_actions_come_in_the_tasks_bounds():
    found = decide(planner(task=WIDE, act=behavior(mean=0.5)), STATES)
    plain = decide(planner(act=behavior(mean=0.5)), STATES)
    np.testing.assert_allclose(found.action, 2.0 + 2.0 * plain.action.numpy(), rtol=1e-6)


def test_the_trajectory_shown_is_the_heaviest_candidates():
    found = decide(planner(), STATES)
    assert found.trajectory.shape == (3, 4, 2)
    np.testing.assert_allclose(found.trajectory[:, 0], STATES)
    best = found.weights.numpy().argmax(axis=1)
    np.testing.assert_array_equal(best, found.returns.numpy().argmax(axis=1))


def test_one_member_acts_for_all_rows_and_it_changes_from_step_to_step():
    knobs = dataclasses.replace(KNOBS, sigma_max=1e-6, horizon=8, inverse_temperature=0.0)
    made = planner(knobs, act=behavior(mean=0.5, members=2))
    seen = set()
    for seed in range(6):
        found = decide(made, STATES, seed=(seed, 0))
        signs = np.sign(np.concatenate([found.action[:, None], found.plan[:, :-1]], axis=1))
        assert (signs == signs[:1]).all()
        seen.add(tuple(signs[0, :, 0]))
    assert len(seen) >= 5 and all(len(set(signs)) == 2 for signs in seen)


# --- the real models ---


def ensemble(members=2, **changes):
    task = toys.cart()
    config = DynamicsConfig(dynamics_members=members, **changes)
    units = rows.Normalizer(
        Statistics(np.array([1.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32)),
        Statistics(np.array([0.5], np.float32), np.array([0.25], np.float32)),
        Statistics(np.array([0.1, 0.2, 3.0], np.float32), np.array([2.0, 4.0, 5.0], np.float32)),
    )
    change = np.array([2.0, 4.0, 0.5], np.float32)
    return DynamicsModel(
        task, model=MODEL, config=config, normalizer=units, change_scale=change, seed=0
    )


def test_inputs_and_outputs_are_in_the_datas_units():
    states, outputs = tf.constant([[3.0, 1.0]]), tf.constant([[1.0, -1.0, 2.0]])
    np.testing.assert_allclose(
        ensemble().inputs(states, tf.constant([[1.0]])), [[1.0, 1.0, 2.0]], rtol=1e-6
    )
    np.testing.assert_allclose(
        ensemble().next_states(states, outputs), [[3.0 + 2.1, 1.0 - 3.8]], rtol=1e-6
    )
    absolute = ensemble(targets="absolute")
    np.testing.assert_allclose(absolute.next_states(states, outputs), [[2.1, -3.8]], rtol=1e-6)
    np.testing.assert_allclose(absolute.rewards(outputs), [13.0], rtol=1e-6)


def test_disagreement_counts_states_and_reward_in_the_asked_units():
    outputs = tf.constant([[[1.0, 2.0, 3.0]], [[0.0, 2.0, 1.0]]])
    np.testing.assert_allclose(
        ensemble().uncertainty(outputs, "raw"), [np.hypot(2.0, 10.0)], rtol=1e-6
    )
    np.testing.assert_allclose(
        ensemble().uncertainty(outputs, "delta"), [np.hypot(1.0, 20.0)], rtol=1e-6
    )


def test_uncertainties_of_many_rows_are_those_of_single_ones(monkeypatch):
    from mopp_tf.models import dynamics

    model = ensemble()
    generator = np.random.default_rng(0)
    states = generator.normal(size=(5, 2)).astype(np.float32)
    actions = generator.uniform(-1, 1, (5, 1)).astype(np.float32)
    whole = model.uncertainties(states, actions, "delta")
    predict = model.bind()
    single = [
        float(model.uncertainty(predict(states[i : i + 1], actions[i : i + 1]), "delta")[0])
        for i in range(5)
    ]
    np.testing.assert_allclose(whole, single, rtol=1e-5)
    monkeypatch.setattr(dynamics, "_ROWS_PER_CALL", 2)
    np.testing.assert_allclose(model.uncertainties(states, actions, "delta"), single, rtol=1e-5)
    assert whole.min() > 0.0


def test_published_orders_are_taken_or_refused():
    with pytest.raises(UserError, match=r"--dynamics_orders: expected 2 numbers .* got 1 and 2"):
        ensemble(dynamics_orders=(3,))
    hopper = dataclasses.replace(
        TASK, observation_names=tuple("abcdefghijk"), action_names=("x", "y", "z")
    )
    units = rows.Normalizer(toys.identity(11), toys.identity(3), toys.identity(12))
    model = DynamicsModel(
        hopper,
        model=MODEL,
        config=DynamicsConfig(dynamics_members=2, dynamics_orders=(1, 4)),
        normalizer=units,
        change_scale=np.ones(12, np.float32),
        seed=0,
    )
    published = autoregressive_network.PUBLISHED_HOPPER_ORDERS
    assert [m.order for m in model.members] == [published[1], published[4]]


def test_six_behaviour_members_for_three_actions_have_all_orderings():
    three = dataclasses.replace(TASK, action_names=("x", "y", "z"))
    units = UNITS._replace(actions=toys.identity(3))
    model = BehaviorModel(three, MODEL, BehaviorConfig(behavior_members=6), units, 0)
    assert [m.order for m in model.members] == autoregressive_network.all_orderings(3)
    assert len({m.order for m in model.members}) == 6


def test_many_actions_need_no_list_of_all_orderings():
    many = dataclasses.replace(TASK, action_names=tuple(f"a{i}" for i in range(20)))
    units = UNITS._replace(actions=toys.identity(20))
    model = BehaviorModel(many, MODEL, BehaviorConfig(behavior_members=3), units, 0)
    assert all(sorted(m.order) == list(range(20)) for m in model.members)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("network", ["adm", "mlp"])
def test_what_is_no_number_is_unknown(network, graph):
    """In a graph, fused kernels would turn NaN into 0."""
    config = dataclasses.replace(MODEL, network=network)
    dynamics = DynamicsModel(
        TASK,
        model=config,
        config=DynamicsConfig(dynamics_members=2),
        normalizer=UNITS,
        change_scale=np.ones(3),
        seed=0,
    )
    made = planner(dynamics=dynamics, limit=1e9)
    bad = (np.nan, np.inf, -np.inf, 1e30)
    rows = tf.constant([[0.5, 0.0], *([x, 0.0] for x in bad), *([0.5, x] for x in bad)])
    actions = tf.zeros([9, 1])
    call = compilation.function(made.step) if graph else made.step
    assert call(rows, actions).known.numpy().tolist() == [True] + 8 * [False]
    actions = tf.constant([[0.5], [np.nan]])
    assert call(tf.zeros([2, 2]), actions).known.numpy().tolist() == [True, False]

    def outputs(constant):
        return dynamics.bind(constant=constant)(tf.zeros([2, 2]), actions)

    for constant in (False, True):  # weights that are read in the graph are fused otherwise
        found = (compilation.function(outputs) if graph else outputs)(constant)
        assert np.isnan(found.numpy()).tolist() == [[[False] * 3, [True] * 3]] * 2


def test_one_member_knows_everything_but_what_is_no_number():
    dynamics = DynamicsModel(
        TASK,
        model=MODEL,
        config=DynamicsConfig(dynamics_members=1),
        normalizer=UNITS,
        change_scale=np.ones(3),
        seed=0,
    )
    found = planner(dynamics=dynamics, limit=0.0).step(
        tf.constant([[0.5, 0.0], [np.nan, 0.0]]), tf.zeros([2, 1])
    )
    assert found.known.numpy().tolist() == [True, False]


def test_a_step_is_the_members_mean_and_is_known_below_the_limit():
    """Bounds of the force are +-4 here; members are 0.5 apart in x' and half of that in reward."""
    task = dataclasses.replace(
        TASK, action_low=TASK.action_low * 4, action_high=TASK.action_high * 4
    )
    states = np.array([[0.5, 0.1], [9.9, 3.0]], np.float32)
    actions = np.array([[2.0], [-40.0]], np.float32)  # 0.5 and -1 in units of the bounds
    scaled = np.array([[0.5], [-1.0]])
    after = states @ F.T + scaled @ G.T
    cost = np.einsum("bi,ij,bj->b", states, W, states) + U * scaled[:, 0] ** 2
    for limit, known in ((0.49, False), (0.51, True)):
        made = planner(dynamics=LinearDynamics((0.0, 0.5)), task=task, limit=limit)
        found = made.step(tf.constant(states), tf.constant(actions))
        np.testing.assert_allclose(found.next_states, after + [0.25, 0.0], atol=1e-5)
        np.testing.assert_allclose(found.rewards, -cost + 0.125, atol=1e-4)
        np.testing.assert_allclose(found.disagreement, [0.5, 0.5], atol=1e-5)
        np.testing.assert_array_equal(found.known, [known, known])
        np.testing.assert_array_equal(found.terminated, [False, True])  # |x'| > 10


def test_the_candidates_of_a_decision_start_where_it_does_and_follow_the_models():
    found = decide(planner(dataclasses.replace(KNOBS, population=40)), STATES)
    states = found.states.numpy()
    assert states.shape == (3, 40, 4, 2)
    np.testing.assert_array_equal(states[:, :, 0], STATES[:, None].repeat(40, 1))
    # The position obeys x' = x + 0.1 v whatever the action.
    np.testing.assert_allclose(
        states[:, :, 1:, 0], states[:, :, :-1, 0] + 0.1 * states[:, :, :-1, 1], atol=1e-5
    )
    # n equal weights have entropy ln n and effective sample size n; unequal ones more of the first.
    assert (np.exp(found.weight_entropy) > found.effective_sample_size.numpy()).all()
    best = found.weights.numpy().argmax(axis=1)
    np.testing.assert_array_equal(found.trajectory, states[np.arange(3), best])
