"""How well models know what follows, where 1 is predicting the mean change.

Over one step a slow plant moves less than its instruments' noise, which nobody can predict; over
several it does not. Models are used over many.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from offline_tf.inspection import measures
from offline_tf.models import compilation, gaussian_ensemble
from offline_tf.numerics.holdout import Split
from offline_tf.tasks import closed_form
from offline_tf.types import Array, TaskSpec, Tensor

STEPS = 10
_STRETCHES = 500


def over_steps(
    ensemble: gaussian_ensemble.GaussianEnsemble,
    *,
    task: TaskSpec,
    states: Array,
    actions: Array,
    next_states: Array,
    bounds: Array,
    split: Split,
) -> float | None:
    """Squared error of the members' mean over ten steps with the logged actions, open loop.

    Args:
      ensemble: fitted.
      task: what it tells of the next state, and which signals follow the log.
      states, actions, next_states: the data, [N, S], [N, A], [N, S].
      bounds: [E, 2] of the episodes.
      split: held-out rows; training rows where none are held out.

    Returns:
      Mean over predicted columns of the squared error in units of the variance of the change over ten
      steps; None where no such stretch is whole or nothing changes.
    """
    rows = split.held_out if len(split.held_out) else split.train
    starts = measures.open_loop_starts(bounds, rows, STEPS, _STRETCHES)
    known = np.zeros(len(states), bool)
    known[rows] = True
    stretches = starts[:, None] + np.arange(STEPS)
    starts = starts[known[stretches].all(axis=1)]
    if len(starts) < 2:
        return None

    @compilation.ForAnyLength
    def predict(s: Tensor, a: Tensor) -> Tensor:
        every = ensemble.next_states(s, ensemble.means(ensemble.bind()(s, a)))
        return closed_form.with_the_past(task, s, a, every)

    view = measures.View(
        lambda s, a: measures.Prediction(predict(s, a), tf.zeros_like(s[:, 0])),
        np.inf,
        task.observation_names,
    )
    found = measures.open_loop(
        view,
        states=states,
        actions=actions,
        next_states=next_states,
        starts=starts,
        steps=STEPS,
        given=np.array(task.given, np.int64),
    )
    own = np.flatnonzero(ensemble.mask)
    predicted = found["predicted"][STEPS].mean(axis=0)[:, own]  # [n, D]
    recorded = found["recorded"][STEPS][:, own]
    variance = (recorded - found["recorded"][0][:, own]).var(axis=0)
    moves = variance > 0.0
    if not moves.any() or not np.isfinite(predicted).all():
        return None
    error = np.square(predicted - recorded).mean(axis=0)
    return float((error[moves] / variance[moves]).mean())
