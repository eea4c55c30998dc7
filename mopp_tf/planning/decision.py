"""What candidate trajectories and a decision are; how the kept candidates become a decision."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from mopp_tf.config import PlannerConfig
from mopp_tf.planning import averaging
from mopp_tf.planning.pruning import Pruned
from offline_tf.types import Tensor


class Candidates(NamedTuple):
    """N candidate trajectories of H steps in each of E environments.

    A roll-out has one row per candidate: [B, ..] with B = E * N, candidates of one environment
    side by side. `by_environment` makes [E, N, ..] of it.

    Attributes:
      actions: [E, N, H, A] in units of the bounds.
      states: [E, N, H + 1, S], the first given, the rest predicted.
      returns: [E, N], sum of rewards while alive, and the value of the last state.
      disagreement: [E, N, H], also of steps after a predicted end: a candidate is pruned for what
        the models do not know there, as if it had gone on.
      violation: [E, N], broken hard constraints, summed over steps.
    """

    actions: Tensor
    states: Tensor
    returns: Tensor
    disagreement: Tensor
    violation: Tensor


class Decision(NamedTuple):
    """What one decision yields for E environments.

    Attributes:
      action: [E, A], to be executed, within the task's bounds.
      plan: [E, H, A], handed on to the next decision, in units of the bounds.
      returns, weights, keep: [E, N], of the candidates; returns in scaled rewards.
      expected_return: [E], weighted mean of the returns.
      return_spread: [E], standard deviation of the kept returns.
      effective_sample_size: [E], 1 / sum of squared weights.
      weight_entropy: [E], -sum w ln w, in nats.
      kept_share: [E], share of candidates that survived pruning or were chosen by the fallback.
      fallback: [E] bool, whether too few survived.
      disagreement: [E, H], weighted mean of the candidates'.
      states: [E, N, H + 1, S], of the candidates.
      trajectory: [E, H + 1, S], the states of the candidate with the largest weight.
    """

    action: Tensor
    plan: Tensor
    returns: Tensor
    weights: Tensor
    keep: Tensor
    expected_return: Tensor
    return_spread: Tensor
    effective_sample_size: Tensor
    weight_entropy: Tensor
    kept_share: Tensor
    fallback: Tensor
    disagreement: Tensor
    states: Tensor
    trajectory: Tensor


def by_environment(rows: Candidates, count: int) -> Candidates:
    """Candidates [E * count, ..] of a roll-out -> [E, count, ..]."""
    return Candidates(*(tf.reshape(x, [-1, count, *x.shape[1:]]) for x in rows))


def decide_among(
    candidates: Candidates,
    pruned: Pruned,
    knobs: PlannerConfig,
    execute: Callable[[Tensor], Tensor],
    hand_on: Callable[[Tensor], Tensor],
) -> Decision:
    """Averages the kept candidates by their returns and tells what was decided.

    Args:
      candidates: of E environments.
      pruned: which of them stay.
      knobs: `inverse_temperature` and `temperature_units` of the average.
      execute: first action of the averaged plan [E, A], in units of the bounds -> action [E, A] in
        the task's units.
      hand_on: averaged plan [E, H, A] -> plan [E, H, A] for the next decision.

    Returns:
      A Decision.
    """
    returns, keep = candidates.returns, pruned.keep  # [E, N], [E, N]
    average = averaging.weighted_average(
        actions=candidates.actions,
        returns=returns,
        keep=keep,
        inverse_temperature=knobs.inverse_temperature,
        relative=knobs.temperature_units == "relative",
    )
    weights = average.weights  # [E, N]
    heaviest = tf.argmax(weights, axis=1)  # [E]
    # A pruned candidate may hold NaN, which a weight of 0 would not remove.
    weighted_returns = tf.where(keep, weights * returns, 0.0)  # [E, N]
    weighted_disagreement = tf.where(
        keep[:, :, None], weights[:, :, None] * candidates.disagreement, 0.0
    )  # [E, N, H]
    return Decision(
        action=execute(average.plan[:, 0]),
        plan=hand_on(average.plan),
        returns=returns,
        weights=weights,
        keep=keep,
        expected_return=tf.reduce_sum(weighted_returns, axis=1),
        return_spread=averaging.spread(returns, keep),
        effective_sample_size=average.effective_sample_size,
        weight_entropy=averaging.entropy(weights),
        kept_share=tf.reduce_mean(tf.cast(keep, tf.float32), axis=1),
        fallback=pruned.fallback,
        disagreement=tf.reduce_sum(weighted_disagreement, axis=1),
        states=candidates.states,
        trajectory=tf.gather(candidates.states, heaviest, batch_dims=1),
    )
