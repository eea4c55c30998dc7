"""One planner update from a block of paths: advantages, natural step, baseline fit.

The same update plans in the pessimistic MDP and trains behaviour policies in the simulator.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from morel_tf.planning.natural_gradient import NaturalGradient
from morel_tf.planning.value_baseline import ValueBaseline
from offline_tf.numerics import returns
from offline_tf.types import Array


class Paths(NamedTuple):
    """A block of K paths of at most T steps; rows with valid = False are padding.

    Attributes:
      observations: [T, K, S], what the policy saw.
      actions: [T, K, A], as drawn (unclipped).
      rewards: [T, K].
      next_observations: [T, K, S].
      times: [T, K] steps since the path's start.
      terminated: [T, K] bool, no value beyond this step (fall or HALT).
      ended: [T, K] bool, the path is cut after this step.
      valid: [T, K] bool, the step happened.
    """

    observations: Array
    actions: Array
    rewards: Array
    next_observations: Array
    times: Array
    terminated: Array
    ended: Array
    valid: Array


@dataclasses.dataclass(frozen=True)
class UpdateReport:
    """Scalars of one update; see StepReport and ValueBaseline.fit."""

    kl: float
    step_share: float
    improvement: float
    cg_residual: float
    log_std: float
    explained_variance: float
    samples: int


def update(
    paths: Paths,
    *,
    natural_gradient: NaturalGradient,
    baseline: ValueBaseline,
    discount: float,
    gae_lambda: float,
    kl_per_update: float,
    generator: np.random.Generator,
    bootstrap_targets: bool = False,
) -> UpdateReport:
    """Takes one natural step, then fits the baseline.

    Differs: where a path is cut, advantages count V of the state after its last step; the authors take
    V of the last state itself.

    Args:
      paths: the samples.
      natural_gradient: holds the policy.
      baseline: V before this update; fitted afterwards, as in the authors' code.
      discount: gamma, in [0, 1].
      gae_lambda: in [0, 1].
      kl_per_update: nats.
      generator: draws the baseline's minibatches.
      bootstrap_targets: whether V's targets count the value beyond a cut. False, as in the authors'
        code, where paths run to the task's horizon; True where paths are pieces of episodes.

    Returns:
      An UpdateReport.

    Raises:
      FloatingPointError: rewards, say, are NaN, or no share of the step leaves the policy finite (it is
        as before), or the baseline became NaN.
    """
    steps, count, state_dim = paths.observations.shape
    mask = paths.valid  # [T, K]
    flat = (steps * count, state_dim)
    values = baseline.predict(
        tf.constant(paths.observations.reshape(flat)), tf.constant(paths.times.reshape(-1))
    )
    next_values = _next_values(paths, values.numpy().reshape(steps, count), baseline)  # [T, K]
    advantages = returns.generalized_advantages(
        np.where(mask, paths.rewards, 0.0),
        values=values.numpy().reshape(steps, count),
        next_values=next_values,
        terminated=paths.terminated,
        ended=paths.ended,
        discount=discount,
        gae_lambda=gae_lambda,
    )[mask]
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-6)
    observations = paths.observations[mask]  # [N, S], of the N valid steps
    report = natural_gradient.step(
        tf.constant(observations),
        tf.constant(paths.actions[mask]),
        tf.constant(advantages, tf.float32),
        tf.constant(kl_per_update, tf.float32),
    )
    if np.isnan(report.kl):
        what = "step" if np.isfinite(report.residual) else "gradient"
        raise FloatingPointError(f"the policy's {what} is not a number")
    cut = paths.ended & ~paths.terminated & bootstrap_targets  # [T, K]
    rewards = paths.rewards + np.where(cut, discount * next_values, 0.0)  # [T, K]
    targets = returns.discounted_returns(np.where(mask, rewards, 0.0), paths.ended, discount)[mask]
    explained = baseline.fit(observations, paths.times[mask], targets, generator)
    if np.isnan(explained):  # before it gets into a checkpoint
        raise FloatingPointError("the value baseline is not a number")
    return UpdateReport(
        float(report.kl),
        float(report.share),
        float(report.improvement),
        float(report.residual),
        float(report.log_std),
        explained,
        int(mask.sum()),
    )


def _next_values(paths: Paths, values: Array, baseline: ValueBaseline) -> Array:
    """V of the state after each step: the next row's value, asked anew only where a path is cut."""
    next_values = np.concatenate([values[1:], np.zeros_like(values[:1])])
    cut = paths.ended & paths.valid  # [T, K]
    next_values[cut] = baseline.predict(
        tf.constant(paths.next_observations[cut]), tf.constant(paths.times[cut] + 1)
    ).numpy()
    return next_values
