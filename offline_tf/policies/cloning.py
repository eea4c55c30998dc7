"""Behaviour cloning: the mean action fitted to the logged one; log_std is left alone.

Source: the authors' behavior_cloning.py (squared error, Adam 1e-3, batch 256, 5 epochs).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from offline_tf.models import fitting, networks
from offline_tf.numerics import seeds
from offline_tf.policies.gaussian import GaussianPolicy, NumpyPolicy
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, Tensor

_STEPS_PER_CALL = 1000


def fit_or_load(
    policy: GaussianPolicy,
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
    loop, last = _tracked(policy, stage)
    feed = fitting.Feed(
        lambda rows: (observations[rows], actions[rows]), np.arange(len(observations))
    )
    for epoch in range(stage.restore(), epochs):
        stream = seeds.generator(seed, "behavior_cloning/order", epoch)
        rows = fitting.shuffled_batches([stream], len(observations), batch_size)
        losses = []
        for start in range(0, len(rows), _STEPS_PER_CALL):
            chunk = rows[start : start + _STEPS_PER_CALL]
            rates = tf.fill([len(chunk)], learning_rate)
            losses.append(float(loop.run(*feed(chunk), rates)[0]))
            stage.progress(epoch + (start + len(chunk)) / len(rows), epochs, "epochs")
        loop.check_finite(stage.name, losses, f"{epoch + 1} epochs", "bc_learning_rate")
        last.assign(float(np.mean(losses)))
        stage.log(epoch + 1, {"mse": float(last)})
        stage.save(epoch + 1)
    if not stage.complete:
        if not epochs:
            stage.save(0)
        stage.finish({"mse": float(last)})
    return policy.numpy()


def load(policy: GaussianPolicy, stage: Stage) -> None:
    """Reads the fitted policy of a run's stage into `policy`."""
    _tracked(policy, stage)
    stage.restore()


def _tracked(policy: GaussianPolicy, stage: Stage) -> tuple[fitting.Fit, tf.Variable]:
    """The optimiser and the last epoch's error, named as what checkpoints hold."""

    def loss(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        ((x, y),) = batches
        return [tf.reduce_mean(tf.square((policy.mean(x) - y) / policy.units.output_scale))]

    loop = fitting.Fit(networks.variables(policy.network), loss)
    last = tf.Variable(0.0, trainable=False)
    stage.track([*policy.weights, *loop.adam.moments, last])
    return loop, last
