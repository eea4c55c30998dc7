"""Clones of the data's best episodes, compared by the judge.

A clone of few good episodes may be of too little data, one of all episodes of the wrong ones. Narrow
data show models nothing of what lies beside them, and roll-outs of a clone soon meet HALT, though it
acts well. But what the cloned episodes earned was seen. So clones are compared, and others with them,
by what they are worth if beyond HALT they earn what their episodes did.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from absl import logging

from offline_tf.judging import good_episodes
from offline_tf.judging.judge import Judge
from offline_tf.numerics import large_columns
from offline_tf.numerics.holdout import Split
from offline_tf.policies import cloning
from offline_tf.policies.gaussian import GaussianPolicy, NumpyPolicy
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, TaskSpec, Transitions

_CLEARLY = 0.05


class Fitting(NamedTuple):
    """How a clone is fitted; see `cloning.fit_or_load`. With epochs held-out rows are cloned too.

    Attributes:
      held_out: "always" or "split", see --bc_held_out.
    """

    steps: int = 10_000
    epochs: int = 0
    batch_size: int = 256
    learning_rate: float = 1e-3
    restarts: int = 0
    loss: str = "squared"
    held_out: str = "split"


class Chosen(NamedTuple):
    """The clone that is worth most; one of fewer episodes must be worth clearly more.

    Attributes:
      policy: the clone.
      share: of the episodes that it was fitted to.
      result: of its fit, see `cloning.fit_or_load`.
      promises: by share; empty without a judge.
      worth: by share, a promise that pays what the episodes earned beyond HALT.
      centres: by share, the middle of which that is the lower bound.
    """

    policy: NumpyPolicy
    share: float
    result: dict[str, Any]
    promises: dict[float, float]
    worth: dict[float, float]
    centres: dict[float, float]


def choose(
    policy: GaussianPolicy,
    *,
    task: TaskSpec,
    data: Transitions,
    split: Split,
    share: float | None,
    fitting: Fitting,
    seed: int,
    judge: Judge | None,
    record: RunRecord,
) -> Chosen:
    """Fits a clone per share of the episodes and takes the one that the judge finds worth most.

    Args:
      policy: where every clone begins; holds one of them afterwards.
      task: bounds.
      data: the data set.
      split: training and held-out rows.
      share: of the episodes; None: several are compared, or without a judge all are cloned.
      fitting: of each clone.
      seed: of the minibatches.
      judge: compares; None: nobody does.
      record: the run folder; stages "clone_SHARE".
    """
    first_weights = policy.numpy()
    actions = large_columns.derive(task.clip_actions, data.actions)
    shares = good_episodes.shares(data) if share is None else (share,)
    if judge is None:
        shares = shares[:1]
    clones: dict[float, NumpyPolicy] = {}
    results: dict[float, dict[str, Any]] = {}
    bounds = cloning.Bounds(task.action_low, task.action_high)
    for each in shares:
        policy.assign(first_weights)
        stage = record.stage(f"clone_{each:g}")
        rows = rows_of(data, each, split, fitting.held_out)
        if fitting.epochs:  # nothing is decided by held-out rows
            rows = Split(np.sort(np.concatenate(rows)), np.arange(0))
        clones[each] = cloning.fit_or_load(
            policy,
            observations=data.observations,
            actions=actions,
            rows=rows,
            epochs=fitting.epochs,
            steps=fitting.steps,
            restarts=fitting.restarts,
            batch_size=fitting.batch_size,
            learning_rate=fitting.learning_rate,
            seed=seed,
            stage=stage,
            censored=bounds if fitting.loss == "censored" else None,
        )
        results[each] = stage.result
    if judge is None:
        return Chosen(clones[shares[0]], shares[0], results[shares[0]], {}, {}, {})
    promises = {each: judge.policy(clone).promise for each, clone in clones.items()}
    judged = {
        each: judge.policy(clone, episodes_go_on(data, each, judge))
        for each, clone in clones.items()
    }
    worth = {each: judgement.promise for each, judgement in judged.items()}
    centres = {each: judgement.centre for each, judgement in judged.items()}
    best = _best_of(worth)
    logging.info(
        "behaviour cloning: the best %g %% of the episodes; worth and promise of the clones: %s",
        100 * best,
        "; ".join(f"{100 * each:g} %: {worth[each]:.1f}, {promises[each]:.1f}" for each in clones),
    )
    return Chosen(clones[best], best, results[best], promises, worth, centres)


def rows_of(data: Transitions, share: float, split: Split, held_out: str) -> Split:
    """The rows that a clone is fitted to, and which of these are held out.

    Args:
      data: the data set.
      share: of the episodes.
      split: of all rows.
      held_out: "always" or "split", see --bc_held_out.
    """
    if held_out == "always":
        return good_episodes.best_with_held_out(data, share, split)
    return good_episodes.best(data, share, split)


def _best_of(worth: dict[float, float]) -> float:
    """The share, largest first, whose clone is worth most; a smaller one must be clearly better.

    Episodes with high returns also had luck, and of fewer episodes less is learned.
    """
    shares = iter(worth)
    best = next(shares)
    for share in shares:
        if worth[share] > worth[best] + _CLEARLY * abs(worth[best]):
            best = share
    return best


def episodes_go_on(
    data: Transitions, share: float, judge: Judge, passed: Array | None = None
) -> Array:
    """[T, E] what a clone is paid beyond HALT: what its episodes earned; see `ModelSimulator`.

    Args:
      data: that it was fitted to.
      share: of the episodes that it was fitted to.
      judge: whose time limit T is.
      passed: [E], see `Judge`; None: [T, 1], of starts of episodes.
    """
    limit = judge.models.task.max_episode_steps
    return good_episodes.returns_to_come(data, share, limit, passed)
