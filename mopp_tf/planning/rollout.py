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
from mopp_tf.planning.decision import Candidates
from offline_tf.models import compilation, networks
from offline_tf.models.critics import QFunction
from offline_tf.tasks import closed_form
from offline_tf.types import TaskSpec, Tensor


class Models(NamedTuple):
    """What a planner is made of."""

    behavior: BehaviorModel
    dynamics: DynamicsModel
    q: QFunction


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
    parameters, modes = behavior.modes(inputs)  # modes [B, A]
    _, std = autoregressive_density.best_component(parameters)  # [B, A]
    widest = std if noise.uniform is None else tf.reduce_max(parameters.std, axis=-1)  # [B, A]
    scale = boost(widest, sigma_max)  # [B]
    count = noise.normal.shape[0]
    if knobs.proposals == "ancestral":
        rows = tf.shape(inputs)[0]

        def per_row(x: Tensor) -> Tensor:
            """[K_Q, 1 or B, ..] -> [K_Q * B, ..]."""
            rest = x.shape[2:]
            return tf.reshape(tf.broadcast_to(x, [count, rows, *rest]), [-1, *rest])

        draws = noise.each(per_row)
        _, actions = behavior.ancestral(tf.tile(inputs, [count, 1]), draws, tf.tile(scale, [count]))
        return tf.reshape(actions, [count, -1, actions.shape[1]])
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
    rows = tf.reshape(proposals, [-1, proposals.shape[2]])  # [K_Q * B, A]
    twins = 1 if rule == "first" else 2
    values = q_of_proposals(bound.q(tf.tile(states, [count, 1]), rows, twins), rule)  # [K_Q * B]
    best = tf.argmax(tf.reshape(values, [count, -1]), axis=0, output_type=tf.int32)  # [B]
    return networks.of_members(proposals, best)


def state_value(
    models: Models,
    *,
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
    inputs = models.behavior.inputs(states)  # [B, S]
    actions = propose(bound.behavior(member), inputs, noise, knobs, 0.0)  # [K_Q, B, A]
    count = actions.shape[0]
    rows = tf.reshape(actions, [-1, actions.shape[2]])  # [K_Q * B, A]
    values = bound.q(tf.tile(states, [count, 1]), rows)  # [2, K_Q * B]
    return tf.reduce_mean(tf.reshape(values, [2 * count, -1]), axis=0)


class Tally(NamedTuple):
    """What B trajectories have earned so far.

    Attributes:
      alive: [B] float32, 1 until a predicted end.
      returns: [B], sum of rewards while alive.
      violation: [B], broken hard constraints while alive, summed.
    """

    alive: Tensor
    returns: Tensor
    violation: Tensor

    @classmethod
    def zero(cls, states: Tensor) -> Tally:
        """Before the first step from states [B, S]."""
        alive = tf.ones_like(states[:, 0])
        return cls(alive, tf.zeros_like(alive), tf.zeros_like(alive))


def pay(
    tally: Tally,
    *,
    states: Tensor,
    actions: Tensor,
    next_states: Tensor,
    rewards: Tensor,
    task: TaskSpec,
    objective: Objective,
    knobs: PlannerConfig,
) -> Tally:
    """Adds one step to what trajectories have earned.

    Args:
      tally: so far.
      states, next_states: [B, S].
      actions: [B, A] in units of the bounds.
      rewards: [B], of the models, in scaled rewards.
      task: termination.
      objective: the task's or another reward, and constraints.
      knobs: `planner_termination`.

    Returns:
      A Tally.
    """
    alive = tally.alive
    rewards, broken = objective.apply(states, actions, next_states, rewards)  # [B], [B]
    returns = tally.returns + alive * rewards
    violation = tally.violation + alive * broken
    if knobs.planner_termination == "task":
        assert task.termination is not None, "see offline_tf/models/learned_task.py"
        ended = compilation.of_task(task.termination)(next_states)  # [B] bool
        alive = alive * (1.0 - tf.cast(ended, tf.float32))
    return Tally(alive, returns, violation)


def _guided(
    models: Models,
    *,
    bound: Bound,
    states: Tensor,
    knobs: PlannerConfig,
    member: Tensor,
    noise: autoregressive_density.Noise,
) -> Tensor:
    """One action per row, [B, A]: a boosted proposal of a member, the best by Q of several."""
    assert knobs.sigma_max is not None, "see algorithm.learn, which applies the rule"
    inputs = models.behavior.inputs(states)  # [B, S]
    proposals = propose(bound.behavior(member), inputs, noise, knobs, knobs.sigma_max)
    if knobs.max_q:
        return choose_by_q(bound, states, proposals, knobs.q_of_proposals)
    return proposals[0]


def roll_out(
    task: TaskSpec,
    *,
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
      Candidates [B, ..].
    """
    tally, members = Tally.zero(states), noise.members
    visited, actions, disagreement = [states], [], []
    clone = models.behavior.clone() if knobs.plan == "never" else None
    for t in range(knobs.horizon):
        if clone:
            action = clone(states)  # [B, A]
        else:
            draws = noise.proposals.each(lambda x: x[t])  # noqa: B023
            action = _guided(
                models, bound=bound, states=states, knobs=knobs, member=members[t, 0], noise=draws
            )  # [B, A]
            action = knobs.plan_mix * plan[:, t] + (1.0 - knobs.plan_mix) * action
        action = closed_form.executable_in_units(task, states, action)
        outputs = bound.dynamics(states, action)  # [K, B, S + 1]
        disagreement.append(models.dynamics.uncertainty(outputs, knobs.uncertainty_units))  # [B]
        # XLA compiles a slice anew for each member, not a gather.
        chosen = tf.gather(outputs, members[t, 1])  # [B, S + 1]
        next_states = models.dynamics.next_states(states, chosen)  # [B, S]
        next_states = closed_form.with_the_past_in_units(task, states, action, next_states)
        rewards = tf.reduce_mean(models.dynamics.rewards(outputs), axis=0)  # [B]
        tally = pay(
            tally=tally,
            states=states,
            actions=action,
            next_states=next_states,
            rewards=rewards,
            task=task,
            objective=objective,
            knobs=knobs,
        )
        actions.append(action)
        visited.append(next_states)
        states = next_states
    returns = tally.returns
    if knobs.terminal_value:
        last = members[knobs.horizon, 0]
        returns += tally.alive * state_value(
            models=models, bound=bound, states=states, knobs=knobs, member=last, noise=noise.value
        )
    return Candidates(
        actions=tf.stack(actions, axis=1),
        states=tf.stack(visited, axis=1),
        returns=returns,
        disagreement=tf.stack(disagreement, axis=1),
        violation=tally.violation,
    )
