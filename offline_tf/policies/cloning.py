"""Behaviour cloning: the mean action fitted to the logged one; log_std is left alone.

Source: the authors' behavior_cloning.py (squared error, Adam 1e-3, batch 256, 5 epochs).
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from offline_tf.models import fitting, minibatches, networks, training_loop
from offline_tf.numerics import seeds
from offline_tf.policies.gaussian import GaussianPolicy, NumpyPolicy
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, Tensor

_STEPS_PER_CALL = 1000


def fit_or_load(
    policy: GaussianPolicy,
    *,
    observations: Array,
    actions: Array,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    stage: Stage,
) -> NumpyPolicy:
    """Fits the policy's mean by least squares; goes on from the stage's last checkpoint.

    Differs: rows are drawn without replacement, epoch by epoch; the authors draw with replacement.

    Args:
      policy: changed in place.
      observations: [N, S].
      actions: [N, A], within the bounds.
      epochs: passes over the data; 0 leaves the policy random.
      batch_size: rows per minibatch.
      learning_rate: of Adam.
      seed: of the order.
      stage: where checkpoints and metrics go; its result is {"mse": squared error per action
        dimension over the last epoch}, in the policy's units.

    Returns:
      A copy of the fitted policy.

    Raises:
      UserError: the fit diverged; checkpoints from before are kept.
    """
    optimiser, last_mse = _tracked(policy, stage)
    feed = minibatches.Feed(
        lambda rows: (observations[rows], actions[rows]), np.arange(len(observations))
    )

    def rows(epoch: int) -> Array:
        stream = seeds.generator(seed, "behavior_cloning/order", epoch)
        return minibatches.shuffled_batches([stream], len(observations), batch_size)

    def report(epoch: int, losses: list[Array]) -> dict[str, float]:
        del epoch
        last_mse.assign(float(np.mean([float(mse) for (mse,) in losses])))
        return {"mse": float(last_mse)}

    training_loop.fit(
        optimiser,
        feed=lambda epoch: feed,
        schedule=training_loop.by_epochs(
            epochs, rows, functools.partial(fitting.cosine, learning_rate, 1.0)
        ),
        report=report,
        stage=stage,
        steps_per_call=_STEPS_PER_CALL,
        rate_flag="bc_learning_rate",
    )
    if not stage.complete:
        if not epochs:
            stage.save(0)
        stage.finish({"mse": float(last_mse)})
    return policy.numpy()


def load(policy: GaussianPolicy, stage: Stage) -> None:
    """Reads the fitted policy of a run's stage into `policy`."""
    _tracked(policy, stage)
    stage.restore()


def _tracked(policy: GaussianPolicy, stage: Stage) -> tuple[fitting.Fit, tf.Variable]:
    """The optimiser and the last epoch's error, named as what checkpoints hold."""

    def loss(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        ((states, logged),) = batches
        errors = (policy.mean(states) - logged) / policy.units.output_scale
        return [tf.reduce_mean(tf.square(errors))]

    optimiser = fitting.Fit(networks.variables(policy.network), loss=loss)
    last_mse = tf.Variable(0.0, trainable=False)
    stage.track([*policy.weights, *optimiser.adam.moments, last_mse])
    return optimiser, last_mse
