"""The dynamics model: an ensemble of densities of next state and reward (MOPP, section 4.1)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mopp_tf.config import DynamicsConfig, ModelConfig
from mopp_tf.models import autoregressive_density, autoregressive_network, training
from mopp_tf.models.rows import Normalizer, Rows, dynamics_targets
from offline_tf.models import compilation, devices, disagreement, networks
from offline_tf.numerics import seeds, standardize
from offline_tf.numerics.holdout import Split
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, TaskSpec, Tensor, UserError

_ROWS_PER_CALL = 4096
_DRAWS = 40


class DynamicsModel(tf.Module):
    """K networks (state, action) -> next state and scaled reward; actions in units of the bounds.

    Attributes:
      members: the Keras networks.
      predicted: those of the S + 1 columns of next state and reward that they predict.
    """

    def __init__(
        self,
        task: TaskSpec,
        *,
        model: ModelConfig,
        config: DynamicsConfig,
        normalizer: Normalizer,
        change_scale: Array,
        seed: int,
        points: list[keras.Model] | None = None,
    ) -> None:
        """Draws the first weights; nothing is fitted yet.

        Args:
          task: dimensions.
          model, config: the knobs.
          normalizer: of inputs and targets.
          change_scale: [S + 1], standard deviations of s' - s and of the scaled reward in the data:
            the unit of disagreement "delta".
          seed: of weights and orderings.
          points: deterministic networks [B, S + A] -> [B, S + 1] to use instead of densities (MBOP).

        Raises:
          UserError: the published orderings do not fit the task.
        """
        super().__init__()
        self._conditioning = model.conditioning
        self._absolute = config.targets == "absolute"
        self._normalizer = normalizer
        self._change_scale = change_scale
        # Densities predict what the task does not say of the next state, and the reward.
        told = task.becomes and points is None
        becomes = task.becomes if told else (-1,) * task.state_dim
        self.predicted = np.flatnonzero([*(source < 0 for source in becomes), True])
        self._width, self._dim = task.state_dim + 1, len(self.predicted)
        self._points = points is not None
        if points is not None:
            self.members = points
            return
        count = config.dynamics_members
        orders = autoregressive_network.orderings(self._dim, True, count, seed, "dynamics")
        if config.dynamics_orders:
            published = autoregressive_network.PUBLISHED_HOPPER_ORDERS
            if self._dim != len(published[0]) or len(config.dynamics_orders) != count:
                raise UserError(
                    f"--dynamics_orders: expected {count} numbers (--dynamics_members) and a task "
                    f"with {len(published[0]) - 1} observations, got "
                    f"{len(config.dynamics_orders)} and {task.state_dim}"
                )
            orders = [published[i] for i in config.dynamics_orders]
        with devices.scope():
            self.members = [
                autoregressive_network.make_network(
                    model.network,
                    input_dim=task.state_dim + task.action_dim,
                    order=order,
                    latent_dim=model.latent_dim or task.state_dim,
                    encoder_hidden=model.encoder_hidden,
                    head_hidden=model.head_hidden,
                    mlp_hidden=model.mlp_hidden,
                    components=1,
                    generator=seeds.generator(seed, "dynamics/init", member),
                    name=f"dynamics_{member}",
                )
                for member, order in enumerate(orders)
            ]

    @property
    def size(self) -> int:
        """K."""
        return len(self.members)

    @property
    def weights(self) -> list[tf.Variable]:
        """All variables."""
        return networks.variables(*self.members)

    def inputs(self, states: Tensor, actions: Tensor) -> Tensor:
        """[B, S], [B, A] -> normalised [B, S + A]."""
        normalizer = self._normalizer
        return tf.concat(
            [
                (states - normalizer.states.shift) / normalizer.states.scale,
                (actions - normalizer.actions.shift) / normalizer.actions.scale,
            ],
            axis=1,
        )

    def bind(
        self, dtype: tf.DType = tf.float32, constant: bool = False
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Returns (states [B, S], actions [B, A]) -> normalised modes [K, B, S + 1].

        Rows that are no numbers give NaN.

        Args: see `networks.read`.
        """

        def mode_of(member: keras.Model) -> Callable[[Tensor], Tensor]:
            if self._points:
                return networks.bind(member, dtype, constant)
            weights = autoregressive_density.read(member, dtype, constant)
            return autoregressive_density.density(
                weights, self._dim, False, self._conditioning
            ).mode

        modes = [mode_of(member) for member in self.members]

        def predict(states: Tensor, actions: Tensor) -> Tensor:
            inputs = self.inputs(states, actions)
            outputs = tf.stack([mode(inputs) for mode in modes])
            return self._whole(networks.nan_unless_bounded(inputs, outputs))

        return predict

    def _whole(self, outputs: Tensor) -> Tensor:
        """Puts 0 where nothing is predicted: [.., U] -> [.., S + 1]."""
        if self._points or self._dim == self._width:
            return outputs
        place = np.full(self._width, self._dim)
        place[self.predicted] = np.arange(self._dim)
        padded = tf.concat([outputs, tf.zeros_like(outputs[..., :1])], axis=-1)
        return tf.gather(padded, place, axis=-1)

    @property
    def has_densities(self) -> bool:
        """Whether the members say how sure they are."""
        return not self._points

    def std(self, states: Tensor, actions: Tensor, seed: Tensor) -> Tensor:
        """Normalised standard deviation of each state dimension by itself, earlier ones not given.

        Where a head was fitted on true earlier values, its spread is that of the dimension given
        those; the dimension's own is taken from draws.

        Args:
          states, actions: [B, S], [B, A].
          seed: [2], of the draws.

        Returns:
          [K, B, S].
        """
        inputs = self.inputs(states, actions)
        spreads = []
        for number, member in enumerate(self.members):
            weights = autoregressive_density.read(member)
            density = autoregressive_density.density(weights, self._dim, False, self._conditioning)
            if density.conditioning == "mode":
                _, std = autoregressive_density.best_component(density.modes(inputs)[0])
            else:
                drawn = density.sample(tf.tile(inputs, [_DRAWS, 1]), seed + [0, number])
                std = tf.math.reduce_std(tf.reshape(drawn, [_DRAWS, -1, self._dim]), axis=0)
                std *= np.sqrt(_DRAWS / (_DRAWS - 1))
            spreads.append(self._whole(std)[:, :-1])
        return tf.stack(spreads)

    def next_states(self, states: Tensor, outputs: Tensor) -> Tensor:
        """States [B, S], normalised outputs [.., B, S + 1] -> next states [.., B, S]."""
        raw = self._raw(outputs)[..., :-1]
        return raw if self._absolute else states + raw

    def rewards(self, outputs: Tensor) -> Tensor:
        """Normalised outputs [.., S + 1] -> scaled rewards [..]."""
        return self._raw(outputs)[..., -1]

    def _raw(self, outputs: Tensor) -> Tensor:
        return outputs * self._normalizer.targets.scale + self._normalizer.targets.shift

    def uncertainty(self, outputs: Tensor, units: str) -> Tensor:
        """Largest pairwise distance of the members' predictions, next state and reward together.

        Args:
          outputs: normalised, [K, B, S + 1].
          units: "delta", standardised changes; "raw", the state's own and scaled reward (authors).

        Returns:
          [B].
        """
        weights = self._normalizer.targets.scale
        if units == "delta":
            weights = weights / self._change_scale
        return disagreement.largest_pairwise_distance(outputs * weights)

    def uncertainties(self, states: Array, actions: Array, units: str) -> Array:
        """`uncertainty` of many rows [N, S], [N, A] -> [N]."""
        predict = self.bind()

        @compilation.ForAnyLength
        def block(s: Tensor, a: Tensor) -> Tensor:
            return self.uncertainty(predict(s, a), units)

        cuts = range(0, len(states), _ROWS_PER_CALL)
        parts = [
            block(
                tf.constant(states[i : i + _ROWS_PER_CALL]),
                tf.constant(actions[i : i + _ROWS_PER_CALL]),
            )
            for i in cuts
        ]
        return np.concatenate([part.numpy() for part in parts])


def change_scale(rows: Rows) -> Array:
    """[S + 1] standard deviations of s' - s and the scaled reward; 1 where there is no change.

    Of rows whose next state is known.
    """
    deviations = standardize.statistics_of(
        lambda at: dynamics_targets(rows.at(at), "delta"),
        len(rows.states),
        usable=rows.next_known,
    ).scale
    return np.where(deviations < 1e-8, 1.0, deviations).astype(np.float32)


def gather(
    model: DynamicsModel, rows: Rows, kind: str, normalizer: Normalizer, at: Array
) -> tuple[Array, Array]:
    """Normalised inputs [n, S + A] and targets [n, U] of the rows `at`; U are predicted."""
    chosen, units = rows.at(at), normalizer.targets
    inputs = model.inputs(tf.constant(chosen.states), tf.constant(chosen.actions))
    targets = ((dynamics_targets(chosen, kind) - units.shift) / units.scale)[:, model.predicted]
    return np.asarray(inputs, np.float32), targets.astype(np.float32)


def fit(
    model: DynamicsModel,
    *,
    rows: Rows,
    split: Split,
    names: tuple[str, ...],
    knobs: ModelConfig,
    config: DynamicsConfig,
    normalizer: Normalizer,
    seed: int,
    stage: Stage,
) -> dict[str, Any]:
    """Fits all members; see `training.fit_densities`."""
    return training.fit_densities(
        model.members,
        squash=False,
        gather=functools.partial(gather, model, rows, config.targets, normalizer),
        split=split,
        names=tuple((*names, "reward")[column] for column in model.predicted),
        config=knobs,
        steps=config.dynamics_steps,
        seed=seed,
        stage=stage,
    )
