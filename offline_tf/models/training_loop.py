"""The one training loop: every network that is fitted to a data set is fitted by it.

A schedule says on which rows and at which rates; `early_stopping` may end the loop sooner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from offline_tf.models import devices, fitting
from offline_tf.models.minibatches import Feed
from offline_tf.run_folder import stopping
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array

Rates = Callable[[Array, int], Array]  # numbers of Adam steps, and of all steps -> learning rates


class Block(NamedTuple):
    """The Adam steps between two checkpoints.

    Attributes:
      units: epochs or steps that these are.
      rows: [steps, M, B] int32 positions in the feed, M members, B rows per minibatch.
      learning_rates: [steps] float32.
    """

    units: int
    rows: Array
    learning_rates: Array


class Schedule(NamedTuple):
    """How long a fit is, and what it does between its checkpoints.

    Attributes:
      total: units in all.
      unit: "epochs" or "steps"; checkpoints and metrics count these.
      block: units done -> what comes next.
    """

    total: int
    unit: str
    block: Callable[[int], Block]


def by_epochs(epochs: int, rows: Callable[[int], Array], rates: Rates) -> Schedule:
    """Passes over the data, with a checkpoint after each.

    Args:
      epochs: passes.
      rows: epoch, from 0 -> its minibatches [steps, M, B], as many in each epoch.
      rates: of the steps, see `Rates`.
    """

    def block(epoch: int) -> Block:
        batches = rows(epoch)
        steps = epoch * len(batches) + np.arange(len(batches))
        return Block(1, batches, rates(steps, epochs * len(batches)))

    return Schedule(epochs, "epochs", block)


def by_steps(
    steps: int, steps_per_checkpoint: int, rows: Callable[[int, int], Array], rates: Rates
) -> Schedule:
    """So many Adam steps, whatever the size of the data.

    Args:
      steps: in all.
      steps_per_checkpoint: the last block may have fewer.
      rows: steps done, count -> minibatches of the next `count` steps [count, M, B].
      rates: of the steps, see `Rates`.
    """

    def block(done: int) -> Block:
        count = min(steps_per_checkpoint, steps - done)
        return Block(count, rows(done, count), rates(done + np.arange(count), steps))

    return Schedule(steps, "steps", block)


def fit(
    optimiser: fitting.Fit,
    *,
    feed: Callable[[int], Feed],
    schedule: Schedule,
    report: Callable[[int, list[Array]], dict[str, float]],
    stage: Stage,
    steps_per_call: int,
    rate_flag: str = "",
    is_over: Callable[[int], bool] = lambda done: False,
) -> int:
    """Fits; goes on from the stage's last checkpoint, or from where it was stopped after that.

    Args:
      optimiser: of a loss; the stage tracks its variables already.
      feed: units done -> the data that the next block's rows are positions in; of nothing that
        changes with the fit.
      schedule: see there.
      report: units done, mean losses [M] of each call since the last checkpoint -> the log's numbers.
      stage: where checkpoints and metrics go.
      steps_per_call: at most so many Adam steps run in one call of the graph.
      rate_flag: of the learning rate, for the error message.
      is_over: units done -> whether to end before the schedule does.

    Returns:
      Units done.

    Raises:
      UserError: the fit diverged; checkpoints from before are kept.
    """
    done = stage.restore()
    first, losses = stage.within_block()
    is_shared = optimiser.adam.is_shared
    if is_shared and devices.workers() > 1:
        devices.check_same(
            _about_to_do(stage.name, done, first, feed, schedule),
            f"{stage.name}: expected the same data and choices in each worker, got others; workers "
            "need the same kind of machine",
        )

    def ends() -> bool:
        over = done >= schedule.total or is_over(done)
        return bool(devices.agreed(over)) if is_shared else over

    def is_asked_to_stop() -> bool:
        return devices.any_of(stopping.asked()) if is_shared else stopping.asked()

    while not ends():
        columns, (units, rows, rates) = feed(done), schedule.block(done)
        batch_size = rows.shape[2]
        rows = devices.own_rows(rows) if is_shared else rows
        until = f"{done + units} {schedule.unit}"
        for start in range(first, len(rows), steps_per_call):
            end = min(start + steps_per_call, len(rows))
            batches, positions = columns(rows[start:end])
            with devices.unless_lost():
                of_call = optimiser.run(
                    batches, positions, tf.constant(rates[start:end]), batch_size
                )
                losses.append(of_call.numpy())
            stage.progress(done + units * end / len(rows), schedule.total, schedule.unit)
            if end < len(rows) and is_asked_to_stop():  # a block may take minutes
                optimiser.check_finite(stage.name, losses, until, rate_flag)
                stage.stop_within_block(done, end, losses)
                raise stopping.Stopped("another worker was asked to stop", stopping.OUT_OF_TIME)
        done += units
        optimiser.check_finite(stage.name, losses, until, rate_flag)
        stage.log(done, report(done, losses))
        stage.save(done, may_stop=not is_shared)
        if is_shared and is_asked_to_stop():
            stopping.check()
            raise stopping.Stopped("another worker was asked to stop", stopping.OUT_OF_TIME)
        first, losses = 0, []
    return done


def _about_to_do(
    name: str, done: int, first: int, feed: Callable[[int], Feed], schedule: Schedule
) -> list[bytes]:
    """What workers that fit together have to agree on: where they are, and which rows come next.

    Args:
      name: of the stage.
      done: units.
      first: step within the block.
      feed, schedule: as in `fit`.
    """
    parts = [name.encode(), str((done, first, schedule.total)).encode()]
    if done < schedule.total:
        rows = schedule.block(done).rows
        columns, positions = feed(done)(rows[:1])
        parts.append(np.ascontiguousarray(rows).tobytes())
        parts += [tf.gather(column, positions[0, 0]).numpy().tobytes() for column in columns]
    return parts


def mean_loss(losses: Sequence[Array]) -> float:
    """Mean over members, then over calls, in float32; losses: [M] of each call."""
    return float(np.mean([of_call.mean() for of_call in losses]))
