"""The guided roll-out: boosted proposals, max-Q, ensemble step (MOPP, sections 4.2 and 4.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from mopp_tf.config import PlannerConfig
from mopp_tf.models import autoregressive_density
from mopp_tf.models.autoregressive_density import Density
from mopp_tf.models.behavior import BehaviorModel
from mopp_tf.models.dynamics import DynamicsModel
from mopp_tf.objectives import Objective
from offline_tf.models import compilation, networks
from offline_tf.models.critics import QFunction
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
      uncertainty: [B, H], also of steps after a predicted end: a candidate is pruned for what the
        models do not know there, as if it had gone on.
      violation: [B], broken hard constraints, summed over steps.
    """

    actions: Tensor
    states: Tensor
    returns: Tensor
    uncertainty: Tensor
    violation: Tensor


class Noise(NamedTuple):
    """All that is random in a decision.

    Attributes:
      members: [H + 1, 2] int32, number of the behaviour member and of the dynamics member whose
        prediction is the next state, at each step; one for all rows (authors, who have one
        environment; here those of a batch share it).
      proposals: [H, K_Q, B, A]; K_Q is 1 without max-Q.
      value: [K_Q, 1, A], of the actions that value the last state: all rows share it, so that
        candidates are told apart by their states and not by their draws; or [K_Q, B, A], each row's
        own, with --value_noise=own (authors).
    """

    members: Tensor
    proposals: autoregressive_density.Noise
    value: autoregressive_density.Noise


class Bound(NamedTuple):
    """The models with their weights read once; constants of a graph.

    Attributes:
      behavior: member number -> its density.
      dynamics: (states, actions) -> normalised modes [K, B, S + 1].
      q: (states, actions, twins) -> [twins, B]; both, or the first one.
    """

    behavior: Callable[[int | Tensor], Density]
    dynamics: Callable[[Tensor, Tensor], Tensor]
    q: Callable[..., Tensor]

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
    noise: autoregressive_density.Noise,
    knobs: PlannerConfig,
    sigma_max: float,
) -> Tensor:
    """Draws K_Q boosted actions per row.

    a^k = tanh(mu + sigma_M / max(sigma) * sigma * eps_k)

    Args:
      behavior: one member.
      inputs: normalised states [B, S].
      noise: [K_Q, B, A], or [K_Q, 1, A] where all rows share it.
      knobs: `proposals` and `noise`; after the squash, noise is that of the likeliest component.
      sigma_max: sigma_M, of the widest component; 0 keeps the model's own spread.

    Returns:
      [K_Q, B, A].
    """
    parameters, modes = behavior.modes(inputs)
    _, std = autoregressive_density.best_component(parameters)
    widest = std if noise.uniform is None else tf.reduce_max(parameters.std, axis=-1)
    scale = boost(widest, sigma_max)
    count = noise.normal.shape[0]
    if knobs.proposals == "ancestral":
        rows = tf.shape(inputs)[0]

        def flat(x: Tensor) -> Tensor:
            rest = x.shape[2:]
            return tf.reshape(tf.broadcast_to(x, [count, rows, *rest]), [-1, *rest])

        own = noise.each(flat)
        _, drawn = behavior.ancestral(tf.tile(inputs, [count, 1]), own, tf.tile(scale, [count]))
        return tf.reshape(drawn, [count, -1, drawn.shape[1]])
    if knobs.noise == "after":
        return tf.clip_by_value(modes + std * scale[:, None] * noise.normal, -1.0, 1.0)
    return autoregressive_density.sample(parameters, True, noise, scale[:, None])


def q_of_proposals(values: Tensor, rule: str) -> Tensor:
    """[2, B] twins, or [1, B] for "first" -> [B]: "min", "mean" or "first"."""
    if rule == "first":
        return values[0]
    return tf.reduce_min(values, 0) if rule == "min" else tf.reduce_mean(values, 0)


def choose_by_q(bound: Bound, states: Tensor, proposals: Tensor, rule: str) -> Tensor:
    """argmax_k Q(s, a^k); states [B, S], proposals [K_Q, B, A] -> [B, A]."""
    count = proposals.shape[0]
    rows = tf.reshape(proposals, [-1, proposals.shape[2]])
    twins = 1 if rule == "first" else 2
    values = q_of_proposals(bound.q(tf.tile(states, [count, 1]), rows, twins), rule)
    best = tf.argmax(tf.reshape(values, [count, -1]), axis=0, output_type=tf.int32)
    return networks.of_members(proposals, best)


def state_value(
    models: Models,
    bound: Bound,
    states: Tensor,
    knobs: PlannerConfig,
    member: int | Tensor,
    noise: autoregressive_density.Noise,
) -> Tensor:
    """V(s) = mean over K_Q actions of the behaviour and both twins of Q(s, a).

    Source: the authors' _mopp_sol: actions with the model's own spread.

    Args:
      models, bound: the models.
      states: [B, S].
      knobs: of the planner.
      member: number of the behaviour member.
      noise: [K_Q, 1, A], or [K_Q, B, A].

    Returns:
      [B].
    """
    inputs = models.behavior.inputs(states)
    actions = propose(bound.behavior(member), inputs, noise, knobs, 0.0)
    count = actions.shape[0]
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
    noise: Noise,
) -> Candidates:
    """Rolls out one trajectory per row.

    Args:
      task: termination.
      models, bound: the models.
      objective: another reward and constraints.
      knobs: of the planner.
      states: [B, S], where each row starts.
      plan: [B, H, A], the shifted previous plan of the row's environment.
      noise: of these rows.

    Returns:
      Candidates.
    """
    members = noise.members
    alive = tf.ones_like(states[:, 0])
    returns = tf.zeros_like(alive)
    violation = tf.zeros_like(alive)
    trail, taken, doubts = [states], [], []
    for t in range(knobs.horizon):
        inputs = models.behavior.inputs(states)
        behavior, draws = bound.behavior(members[t, 0]), noise.proposals.each(lambda x: x[t])  # noqa: B023
        proposals = propose(behavior, inputs, draws, knobs, knobs.sigma_max)
        if knobs.max_q:
            action = choose_by_q(bound, states, proposals, knobs.q_of_proposals)
        else:
            action = proposals[0]
        action = knobs.plan_mix * plan[:, t] + (1.0 - knobs.plan_mix) * action
        outputs = bound.dynamics(states, action)
        doubt = models.dynamics.uncertainty(outputs, knobs.uncertainty_units)
        # XLA compiles a slice anew for each member, not a gather.
        own = tf.gather(outputs, members[t, 1])
        following = models.dynamics.next_states(states, own)
        reward = tf.reduce_mean(models.dynamics.rewards(outputs), axis=0)
        reward, broken = objective.apply(states, action, following, reward)
        returns += alive * reward
        violation += alive * broken
        if knobs.planner_termination == "task":
            assert task.termination is not None, "see offline_tf/models/learned_task.py"
            alive *= 1.0 - tf.cast(compilation.of_task(task.termination)(following), tf.float32)
        taken.append(action)
        doubts.append(doubt)
        trail.append(following)
        states = following
    if knobs.terminal_value:
        value = state_value(models, bound, states, knobs, members[knobs.horizon, 0], noise.value)
        returns += alive * value
    return Candidates(
        tf.stack(taken, axis=1),
        tf.stack(trail, axis=1),
        returns,
        tf.stack(doubts, axis=1),
        violation,
    )
