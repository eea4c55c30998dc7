"""Twin Q networks and what they are fitted to (fitted Q evaluation, Le et al. 2019).

y = R_k + gamma^k * (1 - terminal) * min_j Qtarget_j(s', a'),   loss = sum_j mean (Q_j(s, a) - y)^2
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from offline_tf.models import devices, networks
from offline_tf.numerics import seeds
from offline_tf.numerics.standardize import Statistics
from offline_tf.types import Array, Tensor, next_known


class _Untracked:
    """Keeps networks out of exports: TensorFlow follows attributes and lists, but not this."""

    def __init__(self, held: list[networks.keras.Model]) -> None:
        """Holds them."""
        self.networks = held


class QFunction(tf.Module):
    """Twin networks Q_j(s, a), and their slow targets; actions come in units near 1.

    Attributes:
      networks, targets: Keras networks.
    """

    def __init__(
        self,
        states: Statistics,
        action_dim: int,
        hidden: Sequence[int],
        seed: int,
        *,
        is_shared: bool = True,
    ) -> None:
        """Draws the first weights and copies them to the targets.

        Args:
          states: what states are normalised by; scales above 0.
          action_dim: A.
          hidden: widths.
          seed: of the weights.
          is_shared: whether the fit may be one on several devices, see `devices`.
        """
        super().__init__()
        self._states = states
        with devices.scope() if is_shared else contextlib.nullcontext():
            make = [
                networks.mlp(
                    len(states.shift) + action_dim,
                    hidden=hidden,
                    output_dim=1,
                    activation="relu",
                    generator=seeds.generator(seed, "fitted_q/init", j % 2),
                    initializer="glorot",
                    name=f"q_{j}",
                )
                for j in range(4)
            ]
        self.networks, self._slow = make[:2], _Untracked(make[2:])

    @property
    def targets(self) -> list[networks.keras.Model]:
        """The slow networks, which matter to a fit alone."""
        return self._slow.networks

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
        standard_states = (states - self._states.shift) / self._states.scale
        return tf.concat([standard_states, actions], axis=1)

    def bind(self, dtype: tf.DType = tf.float32, constant: bool = False) -> Callable[..., Tensor]:
        """Returns (states [B, S], actions [B, A], twins) -> [twins, B], all 2 or the first one.

        Args: see `networks.read`.
        """
        forwards = [networks.bind(network, dtype, constant) for network in self.networks]

        def values(states: Tensor, actions: Tensor, twins: int = 2) -> Tensor:
            inputs = self.inputs(states, actions)
            return tf.stack([forward(inputs)[:, 0] for forward in forwards[:twins]])

        return values

    def target_values(self, states: Tensor, actions: Tensor, dtype: tf.DType) -> Tensor:
        """[B, S], [B, A] -> [2, B], values of the targets; dtype: of matrix products."""
        inputs = self.inputs(states, actions)
        return tf.stack([networks.bind(target, dtype)(inputs)[:, 0] for target in self.targets])


class Batch(NamedTuple):
    """Transitions over k logged steps, from s to s'; k = 1 in the papers.

    Attributes:
      states: [B, S].
      actions: [B, A], the units of Q.
      rewards: [B], R_k: the discounted rewards of the k steps.
      next_states: [B, S].
      terminals: [B] float32, 1 where no value follows s'.
      discounts: [B], gamma^k.
      next_actions: [B, A], a' at s'.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor
    terminals: Tensor
    discounts: Tensor
    next_actions: Tensor


def states_to_value(states: Array, next_states: Array, terminals: Array) -> Array:
    """What `Batch.next_states` holds: a terminal row's own state where its next one is not known.

    Nothing is bootstrapped there, so any finite state does; NaN would be NaN also times 0.

    Args:
      states, next_states: [n, S].
      terminals: [n], bool or 0 and 1.

    Returns:
      [n, S].
    """
    known = next_known(next_states, terminals)
    return next_states if known.all() else np.where(known[:, None], next_states, states)


def bellman_target(rewards: Tensor, terminals: Tensor, next_q: Tensor, discounts: Tensor) -> Tensor:
    """R_k + gamma^k * (1 - terminal) * min_j Q_j(s', a').

    Args:
      rewards, terminals: [B], of the k steps up to s'.
      next_q: [2, B], Q_j(s', a').
      discounts: gamma^k, [B] or a number.

    Returns:
      [B].
    """
    return rewards + discounts * (1.0 - terminals) * tf.reduce_min(next_q, axis=0)


def errors(q: QFunction, batch: Batch, dtype: tf.DType) -> tuple[Tensor, Tensor]:
    """Squared errors of the twins, mean over the batch, and their values.

    Args:
      q: networks and targets.
      batch: rows.
      dtype: of matrix products.

    Returns:
      [2] and [2, B].
    """
    next_q = q.target_values(batch.next_states, batch.next_actions, dtype)  # [2, B]
    target = tf.stop_gradient(
        bellman_target(batch.rewards, batch.terminals, next_q, batch.discounts)
    )  # [B]
    values = q.bind(dtype)(batch.states, batch.actions)  # [2, B]
    return tf.reduce_mean(tf.square(values - target), axis=1), values
