"""The value baseline V(s, t) of the planner: an MLP fitted to Monte-Carlo returns."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from offline_tf.models import compilation, fitting, minibatches, networks
from offline_tf.policies.gaussian import Units
from offline_tf.types import Array, Tensor

_TIME_SCALE = 1000.0
_CLIP = 10.0


def features(observations: Tensor, times: Tensor) -> Tensor:
    """[clip(s, +-10) / 10, t/1000 to the powers 1..4]; [N, S] in the policy's units, [N] -> [N, S + 4].

    Source: the authors' mlp_baseline.py.
    """
    time = tf.cast(times, tf.float32)[..., None] / _TIME_SCALE  # [N, 1]
    powers = tf.concat([time, time**2, time**3, time**4], axis=-1)  # [N, 4]
    return tf.concat([tf.clip_by_value(observations, -_CLIP, _CLIP) / _CLIP, powers], axis=-1)


class ValueBaseline(tf.Module):
    """V(s, t) = scale * MLP(features) + shift.

    Differs: targets are standardised with running statistics of the returns seen so far, because
    returns of 10^2 to 10^4 are far from what a fresh network puts out; the authors fit them raw, where
    the same weight_decay is weaker by up to the variance of the returns.
    """

    def __init__(
        self,
        units: Units,
        *,
        hidden: tuple[int, ...],
        learning_rate: float,
        weight_decay: float,
        epochs: int,
        batch_size: int,
        generator: np.random.Generator,
    ) -> None:
        """Builds the network; see morel_tf.config.PlannerConfig for the settings.

        Args:
          units: of the observations; its outputs' are not used.
          hidden, learning_rate, weight_decay, epochs, batch_size: the settings.
          generator: draws the weights.
        """
        super().__init__()
        self._units = units
        state_dim = len(units.input_scale)
        self.network = networks.mlp(
            state_dim + 4,
            hidden=hidden,
            output_dim=1,
            activation="relu",
            generator=generator,
            name="baseline",
        )
        self._rate = learning_rate
        self._epochs = epochs
        self._batch = batch_size
        self.shift = tf.Variable(0.0, trainable=False)
        self.scale = tf.Variable(0.0, trainable=False)
        # Paths end early, so that no two updates have as many rows.
        self._fit = fitting.Fit(
            networks.variables(self.network),
            loss=self._loss,
            weight_decay=weight_decay,
            same_shapes=False,
        )
        self._predict = compilation.ForAnyLength(self._predicted)

    @property
    def state(self) -> list[tf.Variable]:
        """All variables that a checkpoint needs."""
        return [
            *networks.variables(self.network),
            self.shift,
            self.scale,
            *self._fit.adam.moments,
        ]

    def _features(self, observations: Tensor, times: Tensor) -> Tensor:
        units = self._units
        return features((observations - units.input_shift) * units.input_scale, times)

    def _loss(self, batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        # Halves of one minibatch: their mean is its loss, and they are worked on side by side.
        forward = networks.bind(self.network)
        return [
            tf.reduce_mean(tf.square(forward(inputs)[:, 0] - targets)) / len(batches)
            for inputs, targets in batches
        ]

    def predict(self, observations: Tensor, times: Tensor) -> Tensor:
        """[N, S], [N] -> [N] values; zero before the first fit."""
        return self._predict(observations, times)

    def _predicted(self, observations: Tensor, times: Tensor) -> Tensor:
        forward, half = networks.bind(self.network), tf.shape(observations)[0] // 2
        parts = [
            forward(self._features(observations[rows], times[rows]))[:, 0]
            for rows in (slice(None, half), slice(half, None))  # side by side
        ]
        return self.scale * tf.concat(parts, axis=0) + self.shift

    def fit(
        self, observations: Array, times: Array, returns: Array, generator: np.random.Generator
    ) -> float:
        """Fits V to Monte-Carlo returns; call after the policy step, as the authors do.

        Args:
          observations: [N, S].
          times: [N] steps since the path's start.
          returns: [N] discounted returns.
          generator: draws the minibatches.

        Returns:
          The share of the returns' variance that V explains after the fit, at most 1.
        """
        if float(self.scale) == 0.0:
            self.shift.assign(float(returns.mean()))
            self.scale.assign(float(returns.std()) + 1e-6)
        else:
            self._rescale(float(returns.mean()), float(returns.std()) + 1e-6)
        inputs = self._features(tf.constant(observations), tf.constant(times))  # [N, S + 4]
        targets = tf.constant((returns - float(self.shift)) / float(self.scale), tf.float32)
        for _ in range(self._epochs):
            rows = minibatches.shuffled_batches([generator], len(returns), self._batch)
            if rows.shape[2] % 2 == 0:
                rows = rows.reshape(len(rows), 2, -1)
            rates = np.full(len(rows), self._rate, np.float32)
            self._fit.run((inputs, targets), tf.constant(rows), tf.constant(rates))
        values = self.predict(tf.constant(observations), tf.constant(times)).numpy()
        return float(1.0 - np.var(returns - values) / (np.var(returns) + 1e-12))

    def _rescale(self, shift: float, scale: float) -> None:
        """Moves the output statistics half-way to the new ones without changing V."""
        old_shift, old_scale = float(self.shift), float(self.scale)
        new_shift, new_scale = 0.5 * (old_shift + shift), 0.5 * (old_scale + scale)
        kernel, bias = networks.dense_weights(self.network)[-1]
        kernel.assign(kernel * (old_scale / new_scale))
        bias.assign((bias * old_scale + old_shift - new_shift) / new_scale)
        self.shift.assign(new_shift)
        self.scale.assign(new_scale)
