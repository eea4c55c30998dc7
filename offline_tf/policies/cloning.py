"""Behaviour cloning: the mean action fitted to the logged one; log_std is left alone.

Source: the authors' behavior_cloning.py (squared error, Adam 1e-3, batch 256, 5 epochs).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from offline_tf.models import fitting, minibatches, networks, training_loop
from offline_tf.models.early_stopping import EarlyStopping
from offline_tf.numerics import holdout, seeds
from offline_tf.policies.gaussian import GaussianPolicy, NumpyPolicy
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, Tensor

_STEPS_PER_CALL = 1000
_STEPS_PER_LOOK = 1000
_ROWS_JUDGED = 20_000
_AT_BOUND = 1e-3  # of the range


class Bounds(NamedTuple):
    """Where actions are cut off.

    Recorded at its bound an action says that the policy's mean lay there or beyond (a censored value,
    as in Tobin 1958). So an error beyond the bound is none.

    Attributes:
      low, high: [A]; infinite where there is none.
    """

    low: Array
    high: Array

    @property
    def _near(self) -> Array:
        spread = self.high - self.low
        return np.where(np.isfinite(spread), _AT_BOUND * spread, 0.0).astype(np.float32)

    def errors(self, means: Tensor, logged: Tensor) -> Tensor:
        """Means [B, A] less logged actions [B, A]; 0 where both stand at a bound or beyond."""
        errors = means - logged
        errors = tf.where(logged >= self.high - self._near, tf.minimum(errors, 0.0), errors)
        return tf.where(logged <= self.low + self._near, tf.maximum(errors, 0.0), errors)

    def inside(self, logged: Array) -> Array:
        """[N, A] bool, actions that stand at no bound."""
        return (logged > self.low + self._near) & (logged < self.high - self._near)


class Rounds(NamedTuple):
    """Warm restarts of the learning rate, each round twice as long as the one before.

    Source: Loshchilov and Hutter 2017 (SGDR), T_mult = 2.

    Attributes:
      steps: of the first round.
      restarts: rounds after it, at most.
    """

    steps: int
    restarts: int

    @property
    def total(self) -> int:
        """Steps of all rounds."""
        return self.steps * (2 ** (self.restarts + 1) - 1)

    def _ends(self) -> list[int]:
        return [self._replace(restarts=number).total for number in range(self.restarts + 1)]

    def end_after(self, done: int) -> int:
        """Steps at the end of the round that is under way after so many."""
        return next(end for end in self._ends() if end > done)

    def rates(self, peak: float, step: Array) -> Array:
        """Learning rates of steps, from 0: half a cosine from the peak to 0 in each round."""
        ends = np.array(self._ends())
        at = np.minimum(np.searchsorted(ends, step, side="right"), self.restarts)
        lengths = self.steps * 2**at
        since = step - (ends[at] - lengths)
        return fitting.cosine(peak, 0.0, since / np.maximum(lengths, 1), 1)

    def is_over(self, done: int, best: int) -> bool:
        """Whether the last whole round found nothing better than those before.

        Args:
          done: steps.
          best: step of the best weights.
        """
        before = [end for end in self._ends() if end <= done][:-1]
        return bool(before) and best <= before[-1]


def fit_or_load(
    policy: GaussianPolicy,
    *,
    observations: Array,
    actions: Array,
    rows: holdout.Split | None = None,
    epochs: int,
    steps: int = 0,
    restarts: int = 0,
    batch_size: int,
    learning_rate: float,
    seed: int,
    stage: Stage,
    censored: Bounds | None = None,
) -> NumpyPolicy:
    """Fits the policy's mean by least squares; goes on from the stage's last checkpoint.

    Differs: rows are drawn without replacement, epoch by epoch; the authors draw with replacement, as
    do steps here.

    Args:
      policy: changed in place.
      observations: [N, S].
      actions: [N, A], within the bounds.
      rows: which to clone, and which of these are held out; None: all, and none held out.
      epochs: passes over the data; 0: `steps` instead.
      steps: of Adam; the weights with the least held-out error are kept. 0 leaves the policy random.
      restarts: rounds at most after these steps, each twice as long as the one before and begun at the
        whole learning rate. None follows a round that found no lower held-out error.
      batch_size: rows per minibatch.
      learning_rate: of Adam.
      seed: of the order.
      stage: where checkpoints and metrics go; its result is {"mse": squared error per action
        dimension over the last epoch, in the policy's units, "residual": [A] root of the mean squared
        error on held-out rows, or on those cloned where none are held out, in the task's units}.
      censored: the bounds, where means may lie beyond them. "residual" is then of executed actions,
        and of those that stand at no bound, where there are some: at a bound noise does not show.
        None: means are drawn to the bound.

    Returns:
      A copy of the fitted policy.

    Raises:
      UserError: the fit diverged; checkpoints from before are kept.
    """
    if rows is None:
        rows = holdout.Split(np.arange(len(observations)), np.arange(0))
    judged = rows.judged(_ROWS_JUDGED)
    rounds = Rounds(steps, restarts if len(rows.held_out) else 0)
    patience = rounds.total if not epochs and len(rows.held_out) else 0
    stopping = EarlyStopping(policy.weights, patience)
    more = stopping.variables if patience else ()
    optimiser, last_mse = _tracked(policy, stage, more, censored)
    feed = minibatches.Feed(lambda at: (observations[at], actions[at]), rows.train)
    stream = functools.partial(seeds.generator, seed, "behavior_cloning/order")

    def squared_errors() -> Array:
        means = policy.numpy().mean(observations[judged])  # [n, A]
        if censored is not None:
            means = np.clip(means, censored.low, censored.high)
        return np.square(means - actions[judged])

    def residual() -> Array:
        squares = squared_errors()
        shows = (
            np.ones(squares.shape, bool) if censored is None else censored.inside(actions[judged])
        )
        shows |= ~shows.any(axis=0)
        return np.sqrt(squares.mean(axis=0, where=shows))

    def report(done: int, losses: list[Array]) -> dict[str, float]:
        last_mse.assign(float(np.mean([float(mse) for (mse,) in losses])))
        in_units = squared_errors() / np.square(policy.units.output_scale)
        stopping.note(done, float(in_units.mean()))
        return {"mse": float(last_mse)}

    schedule = training_loop.by_epochs(
        epochs,
        lambda epoch: minibatches.shuffled_batches([stream(epoch)], len(feed), batch_size),
        lambda step, total: fitting.cosine(learning_rate, 1.0, step, total),
    )
    if not epochs:

        def block(done: int) -> training_loop.Block:
            count = min(_STEPS_PER_LOOK, rounds.end_after(done) - done)
            batches = minibatches.drawn_batches([stream(done)], len(feed), count, batch_size)
            return training_loop.Block(
                count, batches, rounds.rates(learning_rate, done + np.arange(count))
            )

        schedule = training_loop.Schedule(rounds.total, "steps", block)
    done = training_loop.fit(
        optimiser,
        feed=lambda epoch: feed,
        schedule=schedule,
        report=report,
        stage=stage,
        steps_per_call=_STEPS_PER_CALL,
        rate_flag="bc_learning_rate",
        is_over=lambda at: not epochs and rounds.is_over(at, stopping.best_step),
    )
    if not stage.complete:
        if patience and done:
            stopping.take_best(done, stage.name)
            stage.save(done + 1, may_stop=False)
        elif not done:
            stage.save(0)
        stage.finish({"mse": float(last_mse), "residual": residual().astype(float).tolist()})
    return policy.numpy()


def keep(policy: GaussianPolicy, result: dict[str, Any], stage: Stage) -> None:
    """Completes a stage with a policy that another stage has fitted, for `load`."""
    _tracked(policy, stage)
    stage.save(1, may_stop=False)
    stage.finish(result)


def load(policy: GaussianPolicy, stage: Stage) -> None:
    """Reads the fitted policy of a run's stage into `policy`."""
    _tracked(policy, stage)
    stage.restore()


def _tracked(
    policy: GaussianPolicy,
    stage: Stage,
    more: Sequence[tf.Variable] = (),
    censored: Bounds | None = None,
) -> tuple[fitting.Fit, tf.Variable]:
    """The optimiser and the last epoch's error, named as what checkpoints hold."""

    def loss(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        ((states, logged),) = batches
        means = policy.mean(states)
        errors = means - logged if censored is None else censored.errors(means, logged)
        return [tf.reduce_mean(tf.square(errors / policy.units.output_scale))]

    optimiser = fitting.Fit(networks.variables(policy.network), loss=loss)
    last_mse = tf.Variable(0.0, trainable=False)
    stage.track([*policy.weights, *optimiser.adam.moments, last_mse, *more])
    return optimiser, last_mse
