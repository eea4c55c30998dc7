"""The network of an ADM: an encoder and one head per dimension, in a fixed order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from offline_tf.models import networks
from offline_tf.numerics import seeds
from offline_tf.types import Tensor

# run_planning.sh, Hopper: six orderings of 11 state dimensions and the reward, which comes last.
PUBLISHED_HOPPER_ORDERS: tuple[tuple[int, ...], ...] = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11),
    (10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 11),
    (5, 4, 3, 2, 1, 0, 10, 9, 8, 7, 6, 11),
    (0, 7, 9, 6, 5, 1, 3, 8, 10, 2, 4, 11),
    (2, 9, 6, 8, 7, 5, 10, 4, 1, 0, 3, 11),
    (10, 2, 0, 8, 4, 5, 9, 3, 6, 7, 1, 11),
)


def orderings(dim: int, last: bool, members: int, seed: int, name: str) -> list[tuple[int, ...]]:
    """Returns one ordering of `dim` dimensions per member: ascending, descending, then random.

    Args:
      dim: D.
      last: whether dimension D - 1 (the reward) comes last in all of them, as in those that the
        authors give for Hopper.
      members: how many.
      seed, name: of the random stream.
    """
    free = dim - 1 if last else dim
    tail = (dim - 1,) if last else ()
    orders = [tuple(range(free)), tuple(reversed(range(free)))]
    orders += [
        tuple(int(i) for i in seeds.generator(seed, f"{name}/order", member).permutation(free))
        for member in range(2, members)
    ]
    return [(*order, *tail) for order in orders[:members]]


def all_orderings(dim: int) -> list[tuple[int, ...]]:
    """All permutations in lexicographic order, which the authors use for Hopper's actions."""
    return list(itertools.permutations(range(dim)))


@keras.saving.register_keras_serializable(package="mopp_tf")
class AutoregressiveNetwork(keras.Model):
    """Shared encoder and one head per dimension; head i sees the encoding and i earlier values.

    Attributes:
      order: the dimension that each head predicts.
      encoder, heads: Keras networks.
    """

    def __init__(
        self,
        input_dim: int,
        *,
        order: Sequence[int],
        latent_dim: int,
        encoder_hidden: Sequence[int],
        head_hidden: Sequence[int],
        components: int = 1,
        seed: int = 0,
        name: str = "autoregressive",
    ) -> None:
        """Draws the first weights (Glorot kernels, zero biases).

        Args:
          input_dim: width of the condition c.
          order: a permutation of range(D); head i predicts dimension order[i].
          latent_dim: width of the encoding (its layer is linear).
          encoder_hidden, head_hidden: hidden widths (ReLU).
          components: Gaussians per dimension C.
          seed: of the weights.
          name: of the Keras model.
        """
        super().__init__(name=name)
        if sorted(order) != list(range(len(order))):
            raise ValueError(f"expected a permutation of 0..{len(order) - 1}, got {tuple(order)}")
        self._config = {
            "input_dim": input_dim,
            "order": list(order),
            "latent_dim": latent_dim,
            "encoder_hidden": list(encoder_hidden),
            "head_hidden": list(head_hidden),
            "components": components,
            "seed": seed,
            "name": name,
        }
        self.order = tuple(order)
        generator = np.random.default_rng(seed)
        self.encoder = networks.mlp(
            input_dim,
            hidden=encoder_hidden,
            output_dim=latent_dim,
            activation="relu",
            generator=generator,
            initializer="glorot",
        )
        width = 2 if components == 1 else 3 * components
        self.heads = [
            networks.mlp(
                latent_dim + i,
                hidden=head_hidden,
                output_dim=width,
                activation="relu",
                generator=generator,
                initializer="glorot",
            )
            for i in range(len(order))
        ]
        self.built = True

    def get_config(self) -> dict[str, object]:
        """Returns the constructor's arguments."""
        return dict(self._config)

    def call(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Conditions [B, I], true values [B, D] -> raw outputs [B, D, width], by dimension."""
        latent = self.encoder(inputs)
        outputs: list[Tensor] = [None] * len(self.order)
        for i, (head, dim) in enumerate(zip(self.heads, self.order, strict=True)):
            earlier = [targets[:, d : d + 1] for d in self.order[:i]]
            outputs[dim] = head(tf.concat([latent, *earlier], axis=1))
        return tf.stack(outputs, axis=1)


def make_network(
    kind: str,
    *,
    input_dim: int,
    order: Sequence[int],
    latent_dim: int,
    encoder_hidden: Sequence[int],
    head_hidden: Sequence[int],
    mlp_hidden: Sequence[int],
    components: int,
    generator: np.random.Generator,
    name: str,
) -> keras.Model:
    """Builds an ADM ("adm"), or an MLP with independent outputs ("mlp").

    Args: as for AutoregressiveNetwork; an MLP uses input_dim, order's length, mlp_hidden and
      components only.
    """
    if kind == "adm":
        seed = int(generator.integers(2**31))
        return AutoregressiveNetwork(
            input_dim,
            order=order,
            latent_dim=latent_dim,
            encoder_hidden=encoder_hidden,
            head_hidden=head_hidden,
            components=components,
            seed=seed,
            name=name,
        )
    width = 2 if components == 1 else 3 * components
    return networks.mlp(
        input_dim,
        hidden=mlp_hidden,
        output_dim=len(order) * width,
        activation="relu",
        generator=generator,
        initializer="glorot",
        name=name,
    )
