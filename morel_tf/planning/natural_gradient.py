"""The natural policy gradient step (Kakade 2001; Rajeswaran et al. 2017; MOReL, section 4).

Legend: N samples, S state and A action dimension, P number of policy parameters; g policy
gradient, F Fisher matrix, x = F^-1 g.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from offline_tf.models import compilation
from offline_tf.policies.gaussian import GaussianPolicy
from offline_tf.types import Array, Tensor

tfd = tfp.distributions
_MOST_KL = 2.0  # times the target
_SHORTER, _TRIES = 0.7, 20


class StepReport(NamedTuple):
    """What a natural gradient step did; scalars.

    Attributes:
      kl: mean KL(old || new) over the samples, nats; NaN where it was never finite: then no step was
        taken.
      share: of the natural step that was taken: 1, less where it went too far, 0 where none was taken.
      improvement: mean advantage-weighted likelihood ratio gained, in units of the advantages.
      residual: norm of F x - g, relative to the norm of g.
      log_std: mean of the policy's log standard deviation after the step.
    """

    kl: Tensor
    share: Tensor
    improvement: Tensor
    residual: Tensor
    log_std: Tensor


def gaussian_kl(old_mean: Tensor, old_log_std: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Mean KL(old || new) of diagonal Gaussians in nats; means [N, A], log stds [A] -> scalar."""
    variance_ratio = tf.exp(2.0 * (old_log_std - log_std))  # [A]
    distance = tf.square(old_mean - mean) * tf.exp(-2.0 * log_std)  # [N, A]
    per_sample = tf.reduce_sum(
        log_std - old_log_std + 0.5 * (variance_ratio + distance - 1.0), axis=-1
    )
    return tf.reduce_mean(per_sample)


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenates tensors into one [P] vector."""
    return tf.concat([tf.reshape(t, [-1]) for t in tensors], axis=0)


def unflatten(vector: Tensor, like: Sequence[tf.Variable]) -> list[Tensor]:
    """Cuts a [P] vector into tensors with the shapes of `like`."""
    sizes = [w.shape.num_elements() for w in like]
    pieces = tf.split(vector, sizes)
    return [tf.reshape(p, w.shape) for p, w in zip(pieces, like, strict=True)]


def fisher_product(
    policy: GaussianPolicy, observations: Tensor, damping: float
) -> Callable[[Tensor], Tensor]:
    """Builds v -> (F + damping I) v with the exact Fisher matrix of the policy.

    For a diagonal Gaussian F = mean_n J_n' diag(exp(-2 log_std)) J_n for the network's weights
    (J the Jacobian of the mean) and 2 I for log_std; it equals the Hessian of the mean KL at the
    present policy. J v comes from forward mode, J' u from reverse mode. The observations are taken in
    two halves that TensorFlow works on side by side.

    Args:
      policy: the present policy.
      observations: [N, S].
      damping: added to the diagonal, at least 0.

    Returns:
      Function [P] -> [P], parameters in the order of policy.weights.
    """
    weights = policy.weights[:-1]
    precision = tf.exp(-2.0 * policy.log_std)  # [A]
    count = tf.shape(observations)[0]
    halves = (observations[: count // 2], observations[count // 2 :])

    def curve(rows: Tensor, direction: list[Tensor]) -> Tensor:
        """sum_n J_n' diag(precision) J_n v over the rows."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            with tf.autodiff.ForwardAccumulator(weights, direction) as accumulator:
                mean = policy.mean(rows)
            jacobian_product = accumulator.jvp(mean)
        back = tape.gradient(mean, weights, output_gradients=jacobian_product * precision)
        return flatten(back)

    def product(vector: Tensor) -> Tensor:
        *direction, log_std_direction = unflatten(vector, policy.weights)
        first, second = (curve(rows, direction) for rows in halves)
        network = (first + second) / tf.cast(count, tf.float32)
        return tf.concat([network, 2.0 * log_std_direction], axis=0) + damping * vector

    return product


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    right_side: Tensor,
    iterations: int,
    tolerance: float = 1e-10,
) -> Tensor:
    """Solves product(x) = right_side for a symmetric positive definite product, from x = 0.

    Differs: the authors start from x = right_side, which takes one product more.

    Args:
      product: [P] -> [P].
      right_side: [P].
      iterations: at most this many steps.
      tolerance: stops when the squared residual norm falls below it.

    Returns:
      x [P].
    """

    def step(index: Tensor, x: Tensor, r: Tensor, p: Tensor, rr: Tensor) -> tuple[Tensor, ...]:
        z = product(p)  # [P]
        alpha = rr / tf.tensordot(p, z, 1)
        x, r = x + alpha * p, r - alpha * z
        new_rr = tf.tensordot(r, r, 1)
        return index + 1, x, r, r + (new_rr / rr) * p, new_rr

    start = (
        tf.constant(0),
        tf.zeros_like(right_side),
        right_side,
        right_side,
        tf.tensordot(right_side, right_side, 1),
    )
    _, x, _, _, _ = tf.while_loop(
        lambda index, x, r, p, rr: (index < iterations) & (rr > tolerance),
        step,
        start,
        parallel_iterations=1,
    )
    return x


class NaturalGradient(tf.Module):
    """Takes natural gradient steps on one policy."""

    def __init__(
        self,
        policy: GaussianPolicy,
        *,
        cg_iterations: int,
        cg_damping: float,
        fisher_share: float,
        min_log_std: Array | float,
        max_log_std: float,
    ) -> None:
        """Binds the settings; see morel_tf.config.PlannerConfig for their meaning, [A] of the least."""
        super().__init__()
        self._policy = policy
        self._iterations = cg_iterations
        self._damping = cg_damping
        self._stride = max(1, round(1.0 / fisher_share))
        unit = np.log(policy.units.output_scale)  # log_std is in the task's units
        self._bounds = (min_log_std + unit, max_log_std + unit)
        self._step = compilation.ForAnyLength(self._stepped)

    def step(
        self, observations: Tensor, actions: Tensor, advantages: Tensor, kl_per_update: Tensor
    ) -> StepReport:
        """Moves the policy by x * sqrt(2 * kl_per_update / (g.x)), F x = g.

        Differs: the authors' `normalized_step_size` is twice the KL; ours is the KL. They take the step
        as it is; here it is shortened where the KL comes out at more than twice its target. On Hopper
        it came out at 1.5 times at most, on examples/tank.py at more than twice most of the time.

        Args:
          observations: [N, S].
          actions: [N, A], as drawn (unclipped).
          advantages: [N], whitened by the caller.
          kl_per_update: scalar, target of the mean KL in nats, at least 0.

        Returns:
          A StepReport.
        """
        return self._step(observations, actions, advantages, kl_per_update)

    def _stepped(
        self, observations: Tensor, actions: Tensor, advantages: Tensor, kl_per_update: Tensor
    ) -> StepReport:
        policy = self._policy
        tf.debugging.assert_shapes(
            [(observations, ("N", "S")), (actions, ("N", "A")), (advantages, ("N",))]
        )
        weights = policy.weights
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            distribution = policy.distribution(observations)
            log_prob = distribution.log_prob(actions)  # [N]
            objective = tf.reduce_mean(log_prob * advantages)
        gradient = flatten(tape.gradient(objective, weights))  # [P]
        old_mean, old_log_std = distribution.mean(), tf.identity(policy.log_std)

        product = fisher_product(policy, observations[:: self._stride], self._damping)
        direction = conjugate_gradient(product, gradient, self._iterations)  # [P]
        residual = tf.norm(product(direction) - gradient) / (tf.norm(gradient) + 1e-12)
        curvature = tf.maximum(tf.tensordot(gradient, direction, 1), 1e-12)
        scale = tf.sqrt(2.0 * kl_per_update / curvature)
        before = [tf.identity(weight) for weight in weights]
        deltas = unflatten(scale * direction, weights)

        def move(share: Tensor) -> tuple[Tensor, Tensor]:
            """Takes a share of the step; returns the mean KL, and the new means."""
            for weight, start, delta in zip(weights, before, deltas, strict=True):
                weight.assign(start + share * delta)
            policy.log_std.assign(tf.clip_by_value(policy.log_std, *self._bounds))
            mean = policy.mean(observations)
            return gaussian_kl(old_mean, old_log_std, mean, policy.log_std), mean

        def stay() -> tuple[Tensor, Tensor, Tensor]:
            """Takes the step back, as it leads nowhere."""
            for weight, start in zip(weights, before, strict=True):
                weight.assign(start)
            return tf.zeros([]), tf.constant(np.nan, tf.float32), old_mean

        def too_far(share: Tensor, kl: Tensor, mean: Tensor) -> Tensor:
            del share, mean
            return (kl > _MOST_KL * kl_per_update) | tf.math.is_nan(kl)

        def shorter(share: Tensor, kl: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            del kl, mean
            return _SHORTER * share, *move(_SHORTER * share)

        first = tf.ones([])
        share, kl, mean = tf.while_loop(
            too_far, shorter, (first, *move(first)), maximum_iterations=_TRIES
        )
        share, kl, mean = tf.cond(tf.math.is_finite(kl), lambda: (share, kl, mean), stay)

        new = tfd.MultivariateNormalDiag(mean, tf.exp(policy.log_std))
        ratio = tf.exp(tf.clip_by_value(new.log_prob(actions) - log_prob, -20.0, 20.0))  # [N]
        improvement = tf.reduce_mean((ratio - 1.0) * advantages)
        return StepReport(kl, share, improvement, residual, tf.reduce_mean(policy.log_std))
