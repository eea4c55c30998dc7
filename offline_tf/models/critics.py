"""Twin Q networks and what they are fitted to (fitted Q evaluation, Le et al. 2019).

y = R_k + gamma^k * (1 - terminal) * min_j Qtarget_j(s', a'),   loss = sum_j mean (Q_j(s, a) - y)^2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from offline_tf.models import networks
from offline_tf.numerics import seeds
from offline_tf.numerics.standardize import Statistics
from offline_tf.types import Tensor


class QFunction(tf.Module):
    """Twin networks Q_j(s, a), and their slow targets; actions come in units near 1.

    Attributes:
      networks, targets: Keras networks.
    """

    def __init__(
        self, states: Statistics, action_dim: int, hidden: Sequence[int], seed: int
    ) -> None:
        """Draws the first weights and copies them to the targets.

        Args:
          states: what states are normalised by; scales above 0.
          action_dim: A.
          hidden: widths.
          seed: of the weights.
        """
        super().__init__()
        self._states = states
        make = [
            networks.mlp(
                len(states.shift) + action_dim,
                hidden,
                1,
                "relu",
                seeds.generator(seed, "fitted_q/init", j % 2),
                initializer="glorot",
                name=f"q_{j}",
            )
            for j in range(4)
        ]
        self.networks, self.targets = make[:2], make[2:]

    @property
    def weights(self) -> list[tf.Variable]:
        """Variables of both networks; targets aside."""
        return networks.variables(*self.networks)

    @property
    def target_weights(self) -> list[tf.Variable]:
        """Variables of the targets, in the same order."""
        return networks.variables(*self.targets)

    def move_targets(self, rate: float) -> None:
        """Moves the targets towards the networks by this share of the way."""
        for slow, fast in zip(self.target_weights, self.weights, strict=True):
            slow.assign_add(rate * (fast - slow))

    def inputs(self, states: Tensor, actions: Tensor) -> Tensor:
        """[B, S], [B, A] -> normalised [B, S + A]."""
        of = self._states
        return tf.concat([(states - of.shift) / of.scale, actions], axis=1)

    def bind(self, dtype: tf.DType = tf.float32, constant: bool = False) -> Callable[..., Tensor]:
        """Returns (states [B, S], actions [B, A], twins) -> [twins, B], all 2 or the first one.

        Args: see `networks.read`.
        """
        forwards = [networks.bind(network, dtype, constant) for network in self.networks]

        def values(states: Tensor, actions: Tensor, twins: int = 2) -> Tensor:
            inputs = self.inputs(states, actions)
            return tf.stack([forward(inputs)[:, 0] for forward in forwards[:twins]])

        return values


def backup(rewards: Tensor, terminals: Tensor, next_values: Tensor, discounts: Tensor) -> Tensor:
    """R + gamma^k * (1 - terminal) * min_j Q_j(s', a').

    Args:
      rewards, terminals: [B], of the k steps up to s'.
      next_values: [2, B].
      discounts: gamma^k, [B] or a number.
    """
    return rewards + discounts * (1.0 - terminals) * tf.reduce_min(next_values, axis=0)


def errors(q: QFunction, batch: Sequence[Tensor], dtype: tf.DType) -> tuple[Tensor, Tensor]:
    """Squared errors of the twins, mean over the batch, and their values.

    Args:
      q: networks and targets.
      batch: states [B, S], actions [B, A], rewards [B] of the k steps up to the next states [B, S],
        terminals [B], gamma^k [B], next actions [B, A].
      dtype: of matrix products.

    Returns:
      [2] and [2, B].
    """
    states, actions, rewards, next_states, terminals, discounts, after = batch
    given, then = q.inputs(states, actions), q.inputs(next_states, after)
    beyond = tf.stack([networks.bind(target, dtype)(then)[:, 0] for target in q.targets])
    goal = tf.stop_gradient(backup(rewards, terminals, beyond, discounts))
    values = tf.stack([networks.bind(network, dtype)(given)[:, 0] for network in q.networks])
    return tf.reduce_mean(tf.square(values - goal), axis=1), values
