"""Fitted Q evaluation: twin Q networks fitted to their own slow targets (Le et al. 2019).

The loss stands in `critics`. Whose Q it is depends on the next actions that the rows hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from offline_tf.models import critics, fitting, training_loop
from offline_tf.models.minibatches import Feed
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, Tensor


def fit(
    q: critics.QFunction,
    *,
    feed: Callable[[int], Feed],
    schedule: training_loop.Schedule,
    look: Callable[[], dict[str, float]],
    stage: Stage,
    steps_per_call: int,
    target_rate: float,
    dtype: tf.DType,
    weight_decay: float = 0.0,
    rate_flag: str = "",
    more_variables: Sequence[tf.Variable] = (),
) -> None:
    """Fits the twins; goes on from the stage's last checkpoint.

    Args:
      q: changed in place.
      feed: steps done -> the next block's data, whose columns are those of `critics.Batch`.
      schedule: one member's rows and rates.
      look: numbers for the log beside "loss", the sum over the twins.
      stage: where checkpoints and metrics go.
      steps_per_call: see `training_loop.fit`.
      target_rate: share of the way that the targets move before each step.
      dtype: of matrix products.
      weight_decay: see `fitting.Adam`; of kernels alone.
      rate_flag: see `training_loop.fit`.
      more_variables: what checkpoints hold beside networks, targets and optimiser.

    Raises:
      UserError: the fit diverged; checkpoints from before are kept.
    """

    def loss(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        (batch,) = batches
        squared_errors, _ = critics.errors(q, critics.Batch(*batch), dtype)
        return [tf.reduce_sum(squared_errors)]

    def report(done: int, losses: list[Array]) -> dict[str, float]:
        del done
        return {"loss": training_loop.mean_loss(losses), **look()}

    optimiser = fitting.Fit(
        q.weights,
        loss=loss,
        weight_decay=weight_decay,
        decay_biases=False,
        before_step=lambda: q.move_targets(target_rate),
    )
    stage.track([*q.weights, *q.target_weights, *optimiser.adam.moments, *more_variables])
    training_loop.fit(
        optimiser,
        feed=feed,
        schedule=schedule,
        report=report,
        stage=stage,
        steps_per_call=steps_per_call,
        rate_flag=rate_flag,
    )
