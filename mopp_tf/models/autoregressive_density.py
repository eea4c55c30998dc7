"""The autoregressive model (ADM): a density over D dimensions, one after the other.

p(x | c) = prod_i p(x_o(i) | c, x_o(1), .., x_o(i-1)),   o = the member's own ordering

Source: Zhan et al. 2022, section 4.1; Zhang et al. 2021; layer sizes of the authors' networks.py.
Differs: the authors feed a head with the model's own modes of the earlier dimensions, in training
too, which makes the dimensions independent given c. `conditioning="mode"` does that;
`conditioning="teacher"` feeds the true earlier dimensions, which is the density of the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from mopp_tf.models.autoregressive_network import AutoregressiveNetwork
from offline_tf.models import networks
from offline_tf.types import Array, Tensor

tfd, tfb = tfp.distributions, tfp.bijectors
_LOG_STD_LOW, _LOG_STD_HIGH = -5.0, 0.0  # authors' networks.py


class Parameters(NamedTuple):
    """Of one mixture of C Gaussians per output dimension (before the squash): [B, D, C] each."""

    logits: Tensor
    mean: Tensor
    std: Tensor


def split_outputs(outputs: Tensor) -> Parameters:
    """[.., 3 C], or [.., 2] for C = 1, raw head outputs -> Parameters [.., C]."""
    if outputs.shape[-1] == 2:
        mean, raw = outputs[..., :1], outputs[..., 1:]
        logits = tf.zeros_like(mean)
    else:
        logits, mean, raw = tf.split(outputs, 3, axis=-1)
    half = 0.5 * (_LOG_STD_HIGH - _LOG_STD_LOW)
    return Parameters(logits, mean, tf.exp(_LOG_STD_LOW + half * (tf.tanh(raw) + 1.0)))


def distribution(parameters: Parameters, squash: bool) -> tfp.distributions.Distribution:
    """Returns the distribution of each dimension, batch shape [B, D].

    Args:
      parameters: of the Gaussians.
      squash: whether values are the tanh of the Gaussians, in (-1, 1).
    """
    single = parameters.mean.shape[-1] == 1
    normal = tfd.Normal(*((x[..., 0] if single else x) for x in (parameters.mean, parameters.std)))
    components = tfd.TransformedDistribution(normal, tfb.Tanh()) if squash else normal
    if single:
        return components
    return tfd.MixtureSameFamily(tfd.Categorical(parameters.logits), components)


def best_component(parameters: Parameters) -> tuple[Tensor, Tensor]:
    """Returns mean and std [..] of the likeliest component, before the squash."""
    if parameters.mean.shape[-1] == 1:
        return parameters.mean[..., 0], parameters.std[..., 0]
    best = tf.argmax(parameters.logits, axis=-1)
    rank = parameters.mean.shape.rank - 1
    return (
        tf.gather(parameters.mean, best, batch_dims=rank),
        tf.gather(parameters.std, best, batch_dims=rank),
    )


def mode(parameters: Parameters, squash: bool) -> Tensor:
    """[.., C] -> [..], the squashed mean of the likeliest component."""
    mean, _ = best_component(parameters)
    return tf.tanh(mean) if squash else mean


class Noise(NamedTuple):
    """What draws from the density are made of; the same noise gives the same draws.

    Attributes:
      normal: [.., D] of the standard normal distribution.
      uniform: [.., D, C] in (0, 1), which component is drawn; None where there is one.
    """

    normal: Tensor
    uniform: Tensor | None

    @classmethod
    def draw(cls, shape: Sequence[int | Tensor], components: int, seed: Tensor) -> Noise:
        """Draws noise for [.., D] values of mixtures of C Gaussians; seed [2] int32."""
        pick, normal = tf.unstack(tf.random.split(seed, 2))
        uniform = None
        if components > 1:
            uniform = tf.random.stateless_uniform([*shape, components], pick, minval=1e-20)
        return cls(tf.random.stateless_normal(shape, normal), uniform)

    def each(self, change: Callable[[Tensor], Tensor]) -> Noise:
        """Applies a function to both."""
        return Noise(change(self.normal), None if self.uniform is None else change(self.uniform))


def sample(parameters: Parameters, squash: bool, noise: Noise, std_scale: Tensor | float) -> Tensor:
    """Draws from the mixtures with stds times std_scale.

    Args:
      parameters: [.., C].
      squash: see `distribution`.
      noise: broadcast against [..].
      std_scale: broadcast against [..].
    """
    mean, std = parameters.mean[..., 0], parameters.std[..., 0]
    if noise.uniform is not None:
        # Gumbel's trick draws the component.
        log_weights = tf.nn.log_softmax(parameters.logits)
        chosen = log_weights - tf.math.log(-tf.math.log(noise.uniform))
        wide = (tf.broadcast_to(x, tf.shape(chosen)) for x in (parameters.mean, parameters.std))
        mean, std = best_component(Parameters(chosen, *wide))
    value = mean + std * std_scale * noise.normal
    return tf.tanh(value) if squash else value


class Weights(NamedTuple):
    """A network's weights, read (and cast) once.

    Attributes:
      order: D dimensions (int, or scalar tensors where the network was chosen by a tensor), the one
        that each head predicts; () for an MLP.
      encoder: layers of the encoder, or of the whole MLP.
      heads: layers of each head; [] for an MLP.
    """

    order: Sequence[int | Tensor]
    encoder: list[networks.Layer]
    heads: list[list[networks.Layer]]


def read(network: keras.Model, dtype: tf.DType = tf.float32, constant: bool = False) -> Weights:
    """Reads an ADM's or an MLP's weights; see `networks.read`."""
    if isinstance(network, AutoregressiveNetwork):
        heads = [networks.read(head, dtype, constant) for head in network.heads]
        return Weights(network.order, networks.read(network.encoder, dtype, constant), heads)
    return Weights((), networks.read(network, dtype, constant), [])


def choose(members: Sequence[Weights], index: int | Tensor) -> Weights:
    """Returns members[index]; the members' shapes are equal.

    Where `index` is known only when the graph runs, the weights are gathered: with a branch per
    member, handing the weights to the branches costs more than the products.
    """
    if len(members) == 1:
        return members[0]
    if isinstance(index, int) or tf.executing_eagerly():
        return members[int(index)]
    order = members[0].order
    if order:
        order = tf.unstack(tf.gather(tf.constant([m.order for m in members]), index))
    return Weights(
        order,
        networks.choose([m.encoder for m in members], index),
        [networks.choose(heads, index) for heads in zip(*(m.heads for m in members), strict=True)],
    )


class Density:
    """An AutoregressiveNetwork as a density."""

    def __init__(self, weights: Weights, squash: bool, conditioning: str) -> None:
        """Holds the weights.

        Args:
          weights: of the network.
          squash: whether values are tanh-squashed Gaussians (behaviour) or Gaussians (dynamics).
          conditioning: "teacher" or "mode".
        """
        self.order = weights.order
        self.squash = squash
        self.conditioning = conditioning
        self.components = _components(weights.heads[0][-1].bias.shape[-1])
        self._encode = networks.forward(weights.encoder)
        self._heads = [networks.forward(head) for head in weights.heads]

    def _by_dimension(
        self, columns: list[Tensor], join: Callable[[list[Tensor], int], Tensor]
    ) -> Tensor:
        """Joins D columns [B, ..], made in the heads' order, along axis 1, by dimension."""
        if all(isinstance(dim, int) for dim in self.order):
            return join([columns[self.order.index(dim)] for dim in range(len(columns))], 1)
        # Not by tf.unstack: LiteRT's converter makes another order of tf.concat(tf.unstack(x), 1).
        return tf.gather(join(columns, 1), tf.argsort(self.order), axis=1)

    def _chain(
        self, inputs: Tensor, value_of: Callable[[int | Tensor, Parameters], Tensor]
    ) -> tuple[Parameters, Tensor]:
        """Runs the heads in order; value_of(dimension, parameters [B, C]) -> [B, 1] is fed on."""
        values: list[Tensor] = []
        by_head: list[Parameters] = []
        features = self._encode(inputs)
        for head, dim in zip(self._heads, self.order, strict=True):
            by_head.append(split_outputs(head(features)))
            values.append(value_of(dim, by_head[-1]))
            features = tf.concat([features, values[-1]], axis=1)
        parameters = Parameters(
            *(self._by_dimension(list(x), tf.stack) for x in zip(*by_head, strict=True))
        )
        return parameters, self._by_dimension(values, tf.concat)

    def modes(self, inputs: Tensor) -> tuple[Parameters, Tensor]:
        """Feeds each head the modes of the earlier dimensions.

        Args:
          inputs: [B, I].

        Returns:
          Parameters [B, D, C] and modes [B, D].
        """

        def column(_: int | Tensor, parameters: Parameters) -> Tensor:
            if parameters.mean.shape[-1] == 1:  # no slicing: it costs as much as a small product
                return tf.tanh(parameters.mean) if self.squash else parameters.mean
            return mode(parameters, self.squash)[:, None]

        return self._chain(inputs, column)

    def noise(self, shape: Sequence[int | Tensor], seed: Tensor) -> Noise:
        """Draws noise for values of shape [*shape, D]."""
        return Noise.draw([*shape, len(self.order)], self.components, seed)

    def ancestral(
        self, inputs: Tensor, noise: Noise, std_scale: Tensor | float = 1.0
    ) -> tuple[Parameters, Tensor]:
        """Feeds each head draws of the earlier dimensions; noise [B, D]; see `sample`."""

        def draw(dim: int | Tensor, parameters: Parameters) -> Tensor:
            own = noise.each(lambda x: tf.gather(x, dim, axis=1))
            return sample(parameters, self.squash, own, std_scale)[:, None]

        return self._chain(inputs, draw)

    def mode(self, inputs: Tensor) -> Tensor:
        """[B, I] -> [B, D]."""
        return self.modes(inputs)[1]

    def sample(self, inputs: Tensor, seed: Tensor) -> Tensor:
        """[B, I], seed [2] -> one draw from the density [B, D]."""
        noise = self.noise([tf.shape(inputs)[0]], seed)
        if self.conditioning == "teacher":
            return self.ancestral(inputs, noise)[1]
        return sample(self.modes(inputs)[0], self.squash, noise, 1.0)

    def log_prob(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Log density by dimension.

        Args:
          inputs: [B, I].
          targets: [B, D]; within +-(1 - 1e-3) where squashed.

        Returns:
          [B, D]; the sum over D is the joint log density.
        """
        if self.conditioning == "teacher":
            parameters, _ = self._chain(inputs, lambda dim, _: targets[:, dim : dim + 1])
        else:
            parameters, _ = self.modes(inputs)
        return distribution(parameters, self.squash).log_prob(targets)


class DiagonalDensity(Density):
    """The same interface over one MLP with D independent outputs: the ablation of the ADM."""

    def __init__(self, weights: Weights, dim: int, squash: bool) -> None:
        """Holds the weights of an MLP [B, I] -> [B, D * width]."""
        self.order = tuple(range(dim))
        self.squash = squash
        self.conditioning = "mode"
        self.components = _components(weights.encoder[-1].bias.shape[-1] // dim)
        self._forward = networks.forward(weights.encoder)

    def modes(self, inputs: Tensor) -> tuple[Parameters, Tensor]:
        """As in `Density`."""
        outputs = self._forward(inputs)
        width = outputs.shape[-1] // len(self.order)
        parameters = split_outputs(tf.reshape(outputs, [-1, len(self.order), width]))
        return parameters, mode(parameters, self.squash)

    def ancestral(
        self, inputs: Tensor, noise: Noise, std_scale: Tensor | float = 1.0
    ) -> tuple[Parameters, Tensor]:
        """As in `Density`; nothing is fed on, so every dimension is drawn at once."""
        parameters, _ = self.modes(inputs)
        scale = tf.convert_to_tensor(std_scale)
        scale = scale[:, None] if scale.shape.rank == 1 else scale
        return parameters, sample(parameters, self.squash, noise, scale)


def _components(width: int) -> int:
    """Gaussians per dimension of heads with so many outputs; see `split_outputs`."""
    return 1 if width == 2 else width // 3


def density(weights: Weights, dim: int, squash: bool, conditioning: str) -> Density:
    """Returns the density of either kind of network."""
    if weights.heads:
        return Density(weights, squash, conditioning)
    return DiagonalDensity(weights, dim, squash)


def clip_targets(actions: Array) -> Array:
    """Keeps actions in [-1, 1] away from the ends, where the squashed density is infinite."""
    return np.clip(actions, -1.0 + 1e-3, 1.0 - 1e-3).astype(np.float32)
