"""How MOPP's networks are fitted: Adam steps on rows drawn with replacement, held-out looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mopp_tf.config import ModelConfig
from mopp_tf.models import autoregressive_density
from offline_tf.models import compilation, fitting, networks
from offline_tf.numerics import seeds
from offline_tf.numerics.holdout import Split
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, Tensor, UserError

STEPS_PER_LOOK = 1000
_STEPS_PER_CALL = 200
ROWS_PER_LOOK = 8192


class Schedule(NamedTuple):
    """How long and how fast to fit; see ModelConfig and the stage's own steps."""

    steps: int
    batch_size: int
    learning_rate: float
    final_rate_share: float
    patience: int

    @classmethod
    def of(cls, config: ModelConfig, steps: int) -> Schedule:
        """Takes the fields of the configuration."""
        return cls(
            steps,
            config.batch_size,
            config.learning_rate,
            config.final_rate_share,
            config.patience,
        )


def fit(
    loop: fitting.Fit,
    feed: Callable[[int], fitting.Feed],
    count: int,
    members: int,
    weights: Sequence[tf.Variable],
    schedule: Schedule,
    look: Callable[[], dict[str, float]],
    seed: int,
    stage: Stage,
    probabilities: Array | None = None,
) -> int:
    """Fits; goes on from the stage's last checkpoint.

    Differs: each member draws its own minibatches; the authors' share one.

    Args:
      loop: the optimiser and its loss.
      feed: look number -> the `count` rows of the data for the next STEPS_PER_LOOK steps.
      count: rows to draw from.
      members: ensemble members, each with minibatches of its own.
      weights: everything that a checkpoint must hold beside the optimiser.
      schedule: steps, batch, rates.
      look: numbers for the log; "held_out" decides about stopping early.
      seed: of the row numbers, one stream per member and look.
      stage: where checkpoints and metrics go.
      probabilities: [count] chances of the rows; None draws all alike.

    Returns:
      The step whose weights were kept.

    Raises:
      UserError: loss or weights are no longer finite; checkpoints from before are kept.
      RuntimeError: with patience, if the held-out loss was never finite.
    """
    best = [tf.Variable(w, trainable=False) for w in weights] if schedule.patience else []
    best_value = tf.Variable(np.inf, dtype=tf.float32, trainable=False)
    best_step = tf.Variable(0, dtype=tf.int64, trainable=False)
    stage.track([*weights, *loop.adam.moments, *best, best_value, best_step])
    done = stage.restore()
    cumulative = None if probabilities is None else np.cumsum(probabilities / probabilities.sum())
    while done < schedule.steps and not _out_of_patience(done, int(best_step), schedule):
        number = done // STEPS_PER_LOOK
        steps = min(STEPS_PER_LOOK, schedule.steps - done)
        streams = [seeds.generator(seed, f"{stage.name}/rows/{m}", number) for m in range(members)]
        shape = (steps, schedule.batch_size)
        rows = np.stack([_draw(g, shape, count, cumulative) for g in streams], axis=1)
        data = feed(number)
        losses = []
        for start in range(0, steps, _STEPS_PER_CALL):
            chunk = rows[start : start + _STEPS_PER_CALL]
            at = done + start + np.arange(len(chunk))
            rates = fitting.cosine(
                schedule.learning_rate, schedule.final_rate_share, at, schedule.steps
            )
            losses.append(loop.run(*data(chunk), tf.constant(rates)).numpy().mean())
            stage.progress(done + start + len(chunk), schedule.steps, "steps")
        done += steps
        loop.check_finite(stage.name, losses, f"{done} steps", "learning_rate")
        report = look()
        stage.log(done, {"loss": float(np.mean(losses)), **report})
        if schedule.patience and report["held_out"] < float(best_value):
            best_value.assign(report["held_out"])
            best_step.assign(done)
            for kept, weight in zip(best, weights, strict=True):
                kept.assign(weight)
        stage.save(done)
    if not schedule.patience:
        return done
    if not int(best_step):
        raise RuntimeError(f"{stage.name}: the held-out loss was never a finite number")
    for kept, weight in zip(best, weights, strict=True):
        weight.assign(kept)
    return int(best_step)


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


def _out_of_patience(done: int, best_step: int, schedule: Schedule) -> bool:
    return bool(schedule.patience) and done - best_step >= schedule.patience * STEPS_PER_LOOK


def _draw(
    generator: np.random.Generator, shape: tuple[int, int], count: int, cumulative: Array | None
) -> Array:
    """[steps, B] int32 row numbers, drawn with replacement as in the authors' code."""
    if cumulative is None:
        return generator.integers(count, size=shape, dtype=np.int32)
    found = np.searchsorted(cumulative, generator.random(shape), side="right")
    return np.minimum(found, count - 1).astype(np.int32)


def fit_densities(
    members: Sequence[keras.Model],
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
        negative_log_likelihood(len(names), squash, config.conditioning),
        "nll",
        gather,
        split,
        names,
        config,
        steps,
        seed,
        stage,
        row_weights,
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
    loop = fitting.Fit(weights, loss, weight_decay=2.0 * config.weight_decay, decay_biases=False)
    data = fitting.Feed(gather, split.train)
    fit(
        loop,
        lambda _: data,
        len(split.train),
        len(members),
        weights,
        Schedule.of(config, steps),
        look,
        seed,
        stage,
        None if row_weights is None else row_weights[split.train],
    )
    by_name = judge().numpy()
    each = {f"{loss_name}/{n}": float(v) for n, v in zip(names, by_name, strict=True)}
    return {loss_name: float(by_name.sum()), **each, "judged": kind}
