"""How MOPP's networks are fitted: Adam steps on rows drawn with replacement, held-out looks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mopp_tf.config import ModelConfig
from mopp_tf.models import autoregressive_density
from offline_tf.models import compilation, fitting, minibatches, networks, training_loop
from offline_tf.models.early_stopping import EarlyStopping
from offline_tf.numerics import seeds
from offline_tf.numerics.holdout import Split
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, Tensor, UserError

STEPS_PER_LOOK = 1000
_PATIENCE = 5
STEPS_PER_CALL = 50  # seconds pass in a call: a run can be stopped between two
ROWS_PER_LOOK = 8192


def drawn_schedule(
    config: ModelConfig,
    *,
    steps: int,
    count: int,
    members: int,
    seed: int,
    name: str,
    chances: Array | None = None,
) -> training_loop.Schedule:
    """Rows drawn with replacement, as in the authors' code; a checkpoint every STEPS_PER_LOOK steps.

    Differs: each member draws its own minibatches; the authors' share one.

    Args:
      config: batch size and learning rates.
      steps: of Adam.
      count: rows to draw from.
      members: ensemble members.
      seed: of the row numbers, one stream per member and look.
      name: of the stage, which names the streams.
      chances: [count] relative chances of the rows; None draws all alike.
    """
    cumulative = None if chances is None else np.cumsum(chances / chances.sum())

    def rows(done: int, until_look: int) -> Array:
        look = done // STEPS_PER_LOOK
        streams = [seeds.generator(seed, f"{name}/rows/{m}", look) for m in range(members)]
        return minibatches.drawn_batches(streams, count, until_look, config.batch_size, cumulative)

    rates = functools.partial(fitting.cosine, config.learning_rate, config.final_rate_share)
    return training_loop.by_steps(steps, STEPS_PER_LOOK, rows, rates)


def fit(
    optimiser: fitting.Fit,
    *,
    feed: minibatches.Feed,
    weights: Sequence[tf.Variable],
    schedule: training_loop.Schedule,
    look: Callable[[], dict[str, float]],
    patience: int,
    stage: Stage,
) -> int:
    """Fits with held-out looks that may end it early; goes on from the stage's last checkpoint.

    Args:
      optimiser: of a loss.
      feed: the rows.
      weights: everything that a checkpoint must hold beside the optimiser.
      schedule: rows and rates, see `drawn_schedule`.
      look: numbers for the log; "held_out" decides about stopping early.
      patience: looks without a better one after which the fit ends; 0: it never does.
      stage: where checkpoints and metrics go.

    Returns:
      The step whose weights were kept.

    Raises:
      UserError: loss or weights are no longer finite; checkpoints from before are kept.
      RuntimeError: with patience, if the held-out loss was never finite.
    """
    stopping = EarlyStopping(weights, patience * STEPS_PER_LOOK)
    stage.track([*weights, *optimiser.adam.moments, *stopping.variables])

    def report(done: int, losses: list[Array]) -> dict[str, float]:
        numbers = look()
        if patience:
            stopping.note(done, numbers["held_out"])
        return {"loss": training_loop.mean_loss(losses), **numbers}

    done = training_loop.fit(
        optimiser,
        feed=lambda done: feed,
        schedule=schedule,
        report=report,
        stage=stage,
        steps_per_call=STEPS_PER_CALL,
        rate_flag="learning_rate",
        is_over=stopping.is_over,
    )
    return stopping.take_best(done, stage.name)


def patience_of(config: ModelConfig, split: Split) -> int:
    """Looks without a better one after which a fit ends; 0 where no rows could tell."""
    if not len(split.held_out):
        return 0
    return _PATIENCE if config.patience is None else config.patience


def check_patience(config: ModelConfig, split: Split) -> None:
    """Checks that a fit that is to end early has rows to judge by.

    Raises:
      UserError: it has none.
    """
    if config.patience and not len(split.held_out):
        raise UserError(
            "--patience: expected held-out rows to judge by (for MBOP's value with whole windows), got "
            "none; raise --holdout_share, and give data of more than one episode"
        )


def fit_densities(
    members: Sequence[keras.Model],
    *,
    squash: bool,
    gather: Callable[[Array], tuple[Array, Array]],
    split: Split,
    names: Sequence[str],
    config: ModelConfig,
    steps: int,
    seed: int,
    stage: Stage,
    row_weights: Array | None = None,
) -> dict[str, Any]:
    """Fits an ensemble of densities by maximum likelihood (MOPP, section 4.1).

    loss = sum over members of mean(-log p(targets | inputs)) + weight_decay * ||kernels||^2

    Args:
      members: the networks, changed in place.
      squash: see `autoregressive.Density`.
      gather: row numbers [n] -> inputs [n, I], targets [n, D].
      split: training and held-out rows.
      names: of the D dimensions, for the report.
      config: the knobs.
      steps: of Adam.
      seed: of the minibatches.
      stage: where checkpoints and metrics go.
      row_weights: [N] relative chances of the rows; None draws all alike.

    Returns:
      Negative log-likelihood in nats, mean over members: "nll", and "nll/<name>"; on held-out rows,
      or, as "judged" says, on training rows where none are held out.
    """
    return fit_members(
        members,
        loss_by_dimension=negative_log_likelihood(len(names), squash, config.conditioning),
        loss_name="nll",
        gather=gather,
        split=split,
        names=names,
        config=config,
        steps=steps,
        seed=seed,
        stage=stage,
        row_weights=row_weights,
    )


def negative_log_likelihood(
    dim: int, squash: bool, conditioning: str
) -> Callable[[keras.Model, Tensor, Tensor, tf.DType], Tensor]:
    """The loss of densities over D dimensions, for `fit_members`; see `autoregressive.density`."""

    def loss(member: keras.Model, x: Tensor, y: Tensor, dtype: tf.DType) -> Tensor:
        weights = autoregressive_density.read(member, dtype)
        model = autoregressive_density.density(weights, dim, squash, conditioning)
        return -tf.reduce_mean(model.log_prob(x, y), axis=0)

    return loss


def squared_error(member: keras.Model, x: Tensor, y: Tensor, dtype: tf.DType) -> Tensor:
    """[B, I], [B, D] -> [D], a loss for `fit_members`."""
    return tf.reduce_mean(tf.square(networks.bind(member, dtype)(x) - y), axis=0)


def fit_members(
    members: Sequence[keras.Model],
    *,
    loss_by_dimension: Callable[[keras.Model, Tensor, Tensor, tf.DType], Tensor],
    loss_name: str,
    gather: Callable[[Array], tuple[Array, Array]],
    split: Split,
    names: Sequence[str],
    config: ModelConfig,
    steps: int,
    seed: int,
    stage: Stage,
    row_weights: Array | None = None,
) -> dict[str, Any]:
    """Fits an ensemble whose members share data and loss.

    Args:
      members: the networks, changed in place.
      loss_by_dimension: (member, inputs [B, I], targets [B, D], dtype of products) -> [D].
      loss_name: for the report.
      gather, split, names, config, steps, seed, stage, row_weights: as in `fit_densities`.

    Returns:
      Loss, mean over members: loss_name, the sum over D, and "loss_name/<name>"; on held-out rows,
      or, as "judged" says, on training rows where none are held out.

    Raises:
      UserError: the fit diverged.
    """
    dtype = networks.product_dtype(config.precision)

    def loss(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        return [
            tf.reduce_sum(loss_by_dimension(member, x, y, dtype))
            for member, (x, y) in zip(members, batches, strict=True)
        ]

    kind = split.judged_kind
    inputs, targets = map(tf.constant, gather(split.judged(ROWS_PER_LOOK)))

    @compilation.function
    def judge() -> Tensor:
        losses = [loss_by_dimension(member, inputs, targets, tf.float32) for member in members]
        return tf.reduce_mean(tf.stack(losses), axis=0)

    def look() -> dict[str, float]:
        by_name = judge().numpy()
        each = {f"{kind}/{name}": float(v) for name, v in zip(names, by_name, strict=True)}
        return {kind: float(by_name.sum()), **each}

    weights = networks.variables(*members)
    optimiser = fitting.Fit(
        weights, loss=loss, weight_decay=2.0 * config.weight_decay, decay_biases=False
    )
    fit(
        optimiser,
        feed=minibatches.Feed(gather, split.train),
        weights=weights,
        schedule=drawn_schedule(
            config,
            steps=steps,
            count=len(split.train),
            members=len(members),
            seed=seed,
            name=stage.name,
            chances=None if row_weights is None else row_weights[split.train],
        ),
        look=look,
        patience=patience_of(config, split),
        stage=stage,
    )
    by_name = judge().numpy()
    each = {f"{loss_name}/{n}": float(v) for n, v in zip(names, by_name, strict=True)}
    return {loss_name: float(by_name.sum()), **each, "judged": kind}
