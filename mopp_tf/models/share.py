"""Which share of the episodes, the best ones, the behaviour model is fitted to."""

from __future__ import annotations

import numpy as np

from offline_tf.judging import clones, good_episodes
from offline_tf.judging.judge import Judge
from offline_tf.numerics import seeds, standardize
from offline_tf.numerics.holdout import Split
from offline_tf.policies.gaussian import GaussianPolicy, data_units
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, TaskSpec, Transitions

STAGE = "share"
_HIDDEN = (64, 64)
_FITTING = clones.Fitting(steps=5000)


def choose_or_load(
    share: float | None,
    *,
    task: TaskSpec,
    data: Transitions,
    split: Split,
    seed: int,
    judge: Judge | None,
    record: RunRecord,
    models_from: RunRecord | None = None,
) -> float:
    """The share that is asked for, or that whose small clone is worth most, see `clones.Chosen`.

    Args:
      share: --behavior_share.
      task: bounds.
      data: the data set.
      split: training and held-out rows.
      seed: of the clones.
      judge: compares them; None: nobody does, and all episodes are taken.
      record: the run folder; stages "share" and "clone_SHARE".
      models_from: a run whose behaviour model, and so whose share, is taken over.
    """
    if share is not None:
        return share
    stage = record.stage(STAGE)
    if stage.complete:
        return stage.result["share"]
    if models_from is not None:
        other = models_from.stage(STAGE)
        return stage.finish(other.result)["share"] if other.complete else 1.0
    if judge is None:
        return 1.0
    units = data_units(task, standardize.statistics(data.observations))
    chosen = clones.choose(
        [GaussianPolicy(units, _HIDDEN, 0.0, seeds.generator(seed, "share/init"))],
        task=task,
        data=data,
        split=split,
        share=None,
        fitting=_FITTING,
        seed=seed,
        judge=judge,
        record=record,
    )
    promises, worth = (
        {f"{each:g}": value for each, value in of.items()} for of in (chosen.promises, chosen.worth)
    )
    results = record.results()
    spent = sum(results[f"clone_{each}"]["seconds"] for each in promises)  # in stages of their own
    seconds = max(stage.seconds() - spent, 0.0)
    found = {"share": chosen.share, "promises": promises, "worth": worth}
    return stage.finish(found, seconds)["share"]


def is_good(data: Transitions, share: float, split: Split) -> Array:
    """[N] bool, rows of the best episodes, held-out ones of theirs included."""
    found = np.zeros(len(data), bool)
    for rows in good_episodes.best(data, share, split):
        found[rows] = True
    return found
