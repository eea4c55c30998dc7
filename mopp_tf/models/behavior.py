"""The behaviour model: an ensemble of tanh-squashed densities of the action (MOPP, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mopp_tf.config import BehaviorConfig, ModelConfig
from mopp_tf.models import autoregressive_density, autoregressive_network, training
from mopp_tf.models.rows import Normalizer, Rows
from offline_tf.models import compilation, devices, networks
from offline_tf.numerics import large_columns, seeds
from offline_tf.numerics.holdout import Split
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, TaskSpec, Tensor

_ROWS_PER_CALL = 4096


class BehaviorModel(tf.Module):
    """K' networks; actions are in units of the bounds, (-1, 1).

    Attributes:
      members: the Keras networks.
    """

    def __init__(
        self,
        task: TaskSpec,
        model: ModelConfig,
        config: BehaviorConfig,
        normalizer: Normalizer,
        seed: int,
    ) -> None:
        """Draws the first weights; nothing is fitted yet."""
        super().__init__()
        self._task = task
        self._conditioning = model.conditioning
        self.components = config.components
        self._states = normalizer.states
        dim, count = task.action_dim, config.behavior_members
        orders = autoregressive_network.orderings(dim, False, count, seed, "behavior")
        # For three actions the authors train all orderings there are.
        if count == math.factorial(dim):
            orders = autoregressive_network.all_orderings(dim)
        with devices.scope():
            self.members: list[keras.Model] = [
                autoregressive_network.make_network(
                    model.network,
                    input_dim=task.state_dim,
                    order=order,
                    latent_dim=model.latent_dim or 2 * dim,
                    encoder_hidden=model.encoder_hidden,
                    head_hidden=model.head_hidden,
                    mlp_hidden=model.mlp_hidden,
                    components=config.components,
                    generator=seeds.generator(seed, "behavior/init", member),
                    name=f"behavior_{member}",
                )
                for member, order in enumerate(orders)
            ]

    @property
    def size(self) -> int:
        """K'."""
        return len(self.members)

    @property
    def weights(self) -> list[tf.Variable]:
        """All variables."""
        return networks.variables(*self.members)

    def inputs(self, states: Tensor) -> Tensor:
        """[B, S] -> normalised [B, S]."""
        return (states - self._states.shift) / self._states.scale

    def densities(self) -> list[autoregressive_density.Density]:
        """Returns each member with its weights read once; conditions are `inputs(states)`."""
        choose = self.bind()
        return [choose(index) for index in range(self.size)]

    def bind(
        self, dtype: tf.DType = tf.float32, constant: bool = False
    ) -> Callable[[int | Tensor], autoregressive_density.Density]:
        """Returns member number -> its density, where the number may be a tensor.

        Args: see `networks.read`.
        """
        weights = [autoregressive_density.read(member, dtype, constant) for member in self.members]
        dim, conditioning = self._task.action_dim, self._conditioning

        def choose(index: int | Tensor) -> autoregressive_density.Density:
            return autoregressive_density.density(
                autoregressive_density.choose(weights, index), dim, True, conditioning
            )

        return choose

    def clone(self) -> Callable[[Tensor], Tensor]:
        """Returns states [B, S] -> the mean of the members' modes [B, A]; weights are constants.

        Differs: the authors' cloning acts by the mode of one member drawn at random.
        """
        choose = self.bind(constant=True)
        members = [choose(index) for index in range(self.size)]

        def act(states: Tensor) -> Tensor:
            inputs = self.inputs(states)
            return tf.reduce_mean(tf.stack([member.mode(inputs) for member in members]), axis=0)

        return act

    def widest(self, states: Array) -> Array:
        """Each member's largest standard deviation of an action, [N, S] -> [K', N]; before the squash.

        It is what `rollout.propose` makes sigma_max of.
        """

        @compilation.ForAnyLength
        def block(rows: Tensor) -> Tensor:
            inputs = self.inputs(rows)
            stds = [member.modes(inputs)[0].std for member in self.densities()]  # [B, A, C] each
            return tf.reduce_max(tf.stack(stds), axis=[-2, -1])

        cuts = large_columns.blocks(len(states), _ROWS_PER_CALL)
        return np.concatenate([block(tf.constant(states[cut])).numpy() for cut in cuts], axis=1)


def own_spread(model: BehaviorModel, states: Array, most: float) -> float:
    """The spread that proposals may have without leaving the data: the behaviour's own.

    Args:
      model: fitted.
      states: [N, S] held-out ones.
      most: at most this.

    Returns:
      The median of `BehaviorModel.widest`.
    """
    return min(float(np.median(model.widest(states))), most)


def fit(
    model: BehaviorModel,
    *,
    rows: Rows,
    split: Split,
    names: tuple[str, ...],
    knobs: ModelConfig,
    config: BehaviorConfig,
    seed: int,
    stage: Stage,
) -> dict[str, Any]:
    """Fits all members; see `training.fit_densities`."""

    def gather(at: Array) -> tuple[Array, Array]:
        inputs = np.asarray(model.inputs(rows.states[at]), np.float32)
        return inputs, autoregressive_density.clip_targets(rows.actions[at])

    return training.fit_densities(
        model.members,
        squash=True,
        gather=gather,
        split=split,
        names=names,
        config=knobs,
        steps=config.behavior_steps,
        seed=seed,
        stage=stage,
        row_weights=rows.weights if config.return_weighting else None,
    )
