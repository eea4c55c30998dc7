"""The guided roll-out: boosted proposals, max-Q, ensemble step (MOPP, sections 4.2 and 4.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from mopp_tf import autoregressive
from mopp_tf.autoregressive import Density
from mopp_tf.behavior import BehaviorModel
from mopp_tf.config import PlannerConfig
from mopp_tf.dynamics import DynamicsModel
from mopp_tf.objectives import Objective
from offline_tf.critics import QFunction
from offline_tf.types import TaskSpec, Tensor


class Models(NamedTuple):
    """What a planner is made of."""

    behavior: BehaviorModel
    dynamics: DynamicsModel
    q: QFunction


class Candidates(NamedTuple):
    """B candidate trajectories of H steps.

    Attributes:
      actions: [B, H, A] in units of the bounds.
      states: [B, H + 1, S], the first given, the rest predicted.
      returns: [B], sum of rewards while alive, and the value of the last state.
      uncertainty: [B, H].
      violation: [B], broken hard constraints, summed over steps.
    """

    actions: Tensor
    states: Tensor
    returns: Tensor
    uncertainty: Tensor
    violation: Tensor


class Bound(NamedTuple):
    """The models with their weights read once; constants of a graph.

    Attributes:
      behavior: member number -> its density.
      dynamics: (states, actions) -> normalised modes [K, B, S + 1].
      q: (states, actions) -> [2, B].
    """

    behavior: Callable[[int | Tensor], Density]
    dynamics: Callable[[Tensor, Tensor], Tensor]
    q: Callable[[Tensor, Tensor], Tensor]

    @classmethod
    def of(cls, models: Models, dtype: tf.DType) -> Bound:
        """Reads the weights."""
        return cls(
            models.behavior.bind(dtype, constant=True),
            models.dynamics.bind(dtype, constant=True),
            models.q.bind(dtype, constant=True),
        )


def boost(std: Tensor, sigma_max: float) -> Tensor:
    """Factor that makes the largest standard deviation of a row sigma_max; ratios stay.

    Source: MOPP, section 4.2: sigma_M / max_d sigma_d(s).

    Args:
      std: [B, A].
      sigma_max: sigma_M; 0 keeps the model's own.

    Returns:
      [B].
    """
    if sigma_max == 0.0:
        return tf.ones_like(std[:, 0])
    return sigma_max / tf.reduce_max(std, axis=1)


def propose(
    behavior: Density,
    inputs: Tensor,
    count: int,
    knobs: PlannerConfig,
    sigma_max: float,
    seed: Tensor,
    alike: bool = False,
) -> Tensor:
    """Draws `count` boosted actions per row.

    a^k = tanh(mu + sigma_M / max(sigma) * sigma * eps_k)

    Args:
      behavior: one member.
      inputs: normalised states [B, S].
      count: K_Q.
      knobs: `proposals` and `noise`.
      sigma_max: sigma_M; 0 keeps the model's own spread.
      seed: [2].
      alike: whether all rows get the same noise; without effect on ancestral draws.

    Returns:
      [K_Q, B, A].
    """
    parameters, modes = behavior.modes(inputs)
    _, std = autoregressive.best_component(parameters)
    scale = boost(std, sigma_max)
    if knobs.proposals == "ancestral":
        rows = tf.tile(inputs, [count, 1])
        _, drawn = behavior.ancestral(rows, seed, tf.tile(scale, [count]))
        return tf.reshape(drawn, [count, -1, drawn.shape[1]])
    if knobs.noise == "after":
        rows_drawn = 1 if alike else tf.shape(modes)[0]
        noise = tf.random.stateless_normal([count, rows_drawn, modes.shape[1]], seed)
        return tf.clip_by_value(modes + std * scale[:, None] * noise, -1.0, 1.0)
    many = autoregressive.Parameters(
        *(tf.broadcast_to(x, tf.concat([[count], tf.shape(x)], 0)) for x in parameters)
    )
    return autoregressive.sample(many, True, seed, scale[:, None], alike)


def q_of_proposals(values: Tensor, rule: str) -> Tensor:
    """[2, B] twins -> [B]: "min", "mean" or "first"."""
    if rule == "first":
        return values[0]
    return tf.reduce_min(values, 0) if rule == "min" else tf.reduce_mean(values, 0)


def choose_by_q(bound: Bound, states: Tensor, proposals: Tensor, rule: str) -> Tensor:
    """argmax_k Q(s, a^k); states [B, S], proposals [K_Q, B, A] -> [B, A]."""
    count = proposals.shape[0]
    rows = tf.reshape(proposals, [-1, proposals.shape[2]])
    values = q_of_proposals(bound.q(tf.tile(states, [count, 1]), rows), rule)
    best = tf.argmax(tf.reshape(values, [count, -1]), axis=0)
    return tf.gather(tf.transpose(proposals, [1, 0, 2]), best, batch_dims=1)


def state_value(
    models: Models, bound: Bound, states: Tensor, knobs: PlannerConfig, member: Tensor, seed: Tensor
) -> Tensor:
    """V(s) = mean over K_Q actions of the behaviour and both twins of Q(s, a).

    Source: the authors' _mopp_sol: actions with the model's own spread. Differs: all rows share the
    noise, so that candidates are told apart by their states and not by their draws.

    Args:
      models, bound: the models.
      states: [B, S].
      knobs: K_Q.
      member: number of the behaviour member.
      seed: [2].

    Returns:
      [B].
    """
    inputs = models.behavior.inputs(states)
    count = knobs.q_proposals
    actions = propose(bound.behavior(member), inputs, count, knobs, 0.0, seed, alike=True)
    rows = tf.reshape(actions, [-1, actions.shape[2]])
    values = bound.q(tf.tile(states, [count, 1]), rows)
    return tf.reduce_mean(tf.reshape(values, [2 * count, -1]), axis=0)


def roll_out(
    task: TaskSpec,
    models: Models,
    bound: Bound,
    objective: Objective,
    knobs: PlannerConfig,
    states: Tensor,
    plan: Tensor,
    members: Tensor,
    seed: Tensor,
    value_seed: Tensor,
) -> Candidates:
    """Rolls out one trajectory per row.

    Args:
      task: termination.
      models, bound: the models.
      objective: another reward and constraints.
      knobs: of the planner.
      states: [B, S], where each row starts.
      plan: [B, H, A], the shifted previous plan of the row's environment.
      members: [H + 1, 2] int32, number of the behaviour member and of the dynamics member whose
        prediction is the next state, at each step; one for all rows (authors).
      seed, value_seed: [2], of proposals, and of the actions that value the last state.

    Returns:
      Candidates.
    """
    streams = tf.random.split(seed, knobs.horizon)
    alive = tf.ones_like(states[:, 0])
    returns = tf.zeros_like(alive)
    violation = tf.zeros_like(alive)
    trail, taken, doubts = [states], [], []
    for t in range(knobs.horizon):
        inputs = models.behavior.inputs(states)
        count = knobs.q_proposals if knobs.max_q else 1
        behavior = bound.behavior(members[t, 0])
        proposals = propose(behavior, inputs, count, knobs, knobs.sigma_max, streams[t])
        if knobs.max_q:
            action = choose_by_q(bound, states, proposals, knobs.q_of_proposals)
        else:
            action = proposals[0]
        action = knobs.plan_mix * plan[:, t] + (1.0 - knobs.plan_mix) * action
        outputs = bound.dynamics(states, action)
        doubt = models.dynamics.uncertainty(outputs, knobs.uncertainty_units)
        following = models.dynamics.next_states(states, outputs[members[t, 1]])
        reward = tf.reduce_mean(models.dynamics.rewards(outputs), axis=0)
        reward, broken = objective.apply(states, action, following, reward)
        returns += alive * reward
        violation += alive * broken
        if knobs.planner_termination == "task":
            assert task.termination is not None, "see offline_tf/outcome.py"
            alive *= 1.0 - tf.cast(task.termination(following), tf.float32)
        taken.append(action)
        doubts.append(doubt)
        trail.append(following)
        states = following
    if knobs.terminal_value:
        value = state_value(models, bound, states, knobs, members[knobs.horizon, 0], value_seed)
        returns += alive * value
    return Candidates(
        tf.stack(taken, axis=1),
        tf.stack(trail, axis=1),
        returns,
        tf.stack(doubts, axis=1),
        violation,
    )
