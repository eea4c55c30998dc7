"""Clones of the data's best episodes, compared by the judge.

A clone of few good episodes may be of too little data, one of all episodes of the wrong ones. Narrow
data show models nothing of what lies beside them, and roll-outs of a clone soon meet HALT, though it
acts well. But what the cloned episodes earned was seen. So clones are compared, and others with them,
by what they are worth if beyond HALT they earn what their episodes did.
"""

from __future__ import annotations

from collections.abc import Sequence
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
NARROWER_MISS = 0.98  # of a narrower clone's held-out error, from which on a wider one is taken


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


class Clone(NamedTuple):
    """A fitted policy, and the result of its fit; see `Chosen`."""

    policy: NumpyPolicy
    result: dict[str, Any]


class Chosen(NamedTuple):
    """The clone that is worth most; one of fewer episodes must be worth clearly more.

    Attributes:
      policy: the clone.
      result: of its fit, see `cloning.fit_or_load`; "hidden": widths of its layers.
      share: of the episodes that it was fitted to.
      promises: by share; empty without a judge.
      worth: by share, a promise that pays what the episodes earned beyond HALT.
      centres: by share, the middle of which that is the lower bound.
    """

    policy: NumpyPolicy
    result: dict[str, Any]
    share: float
    promises: dict[float, float]
    worth: dict[float, float]
    centres: dict[float, float]


def choose(
    policies: Sequence[GaussianPolicy],
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

    The clone of the largest share is fitted to each policy. A wider one is taken where it misses
    held-out actions by clearly less; where none are held out the first is.

    Args:
      policies: where clones begin, of several widths, the narrowest first; changed in place.
      task: bounds.
      data: the data set.
      split: training and held-out rows.
      share: of the episodes; None: several are compared, or without a judge all are cloned.
      fitting: of each clone.
      seed: of the minibatches.
      judge: compares; None: nobody does.
      record: the run folder; stages "clone_SHARE", and of wider policies "clone_SHARE_WIDTH".
    """
    actions = large_columns.derive(task.clip_actions, data.actions)
    shares = good_episodes.shares(data) if share is None else (share,)
    if judge is None:
        shares = shares[:1]
    rows = {each: rows_of(data, each, split, fitting.held_out) for each in shares}
    if fitting.epochs:  # nothing is decided by held-out rows
        rows = {
            each: Split(np.sort(np.concatenate(of_share)), np.arange(0))
            for each, of_share in rows.items()
        }
    bounds = cloning.Bounds(task.action_low, task.action_high)

    def fit(each: float, policy: GaussianPolicy) -> Clone:
        name = f"clone_{each:g}"
        if policy is not policies[0]:
            name += f"_{max(policy.hidden)}"
        stage = record.stage(name)
        fitted = cloning.fit_or_load(
            policy,
            observations=data.observations,
            actions=actions,
            rows=rows[each],
            epochs=fitting.epochs,
            steps=fitting.steps,
            restarts=fitting.restarts,
            batch_size=fitting.batch_size,
            learning_rate=fitting.learning_rate,
            seed=seed,
            stage=stage,
            censored=bounds if fitting.loss == "censored" else None,
        )
        return Clone(fitted, {**stage.result, "hidden": list(policy.hidden)})

    if not len(rows[shares[0]].held_out):
        policies = policies[:1]
    first_weights = [policy.numpy() for policy in policies]
    of_widths = [fit(shares[0], policy) for policy in policies]
    at = _width(of_widths, policies[0].units.output_scale)
    found = {shares[0]: of_widths[at]}
    for each in shares[1:]:
        policies[at].assign(first_weights[at])
        found[each] = fit(each, policies[at])
    if judge is None:
        return Chosen(*found[shares[0]], shares[0], {}, {}, {})
    promises = {each: judge.policy(clone.policy).promise for each, clone in found.items()}
    judged = {
        each: judge.policy(clone.policy, episodes_go_on(data, each, judge))
        for each, clone in found.items()
    }
    worth = {each: judgement.promise for each, judgement in judged.items()}
    centres = {each: judgement.centre for each, judgement in judged.items()}
    best = _best_of(worth)
    logging.info(
        "behaviour cloning: the best %g %% of the episodes; worth and promise of the clones: %s",
        100 * best,
        "; ".join(f"{100 * each:g} %: {worth[each]:.1f}, {promises[each]:.1f}" for each in found),
    )
    return Chosen(*found[best], best, promises, worth, centres)


def _width(clones: Sequence[Clone], unit: Array) -> int:
    """Position of the clone, narrowest first, from which on wider ones miss hardly less.

    Args:
      clones: of the same episodes.
      unit: [A] of actions, in which misses are compared.
    """
    misses = [float(np.mean(clone.result["residual"] / unit)) for clone in clones]
    best = 0
    for at, miss in enumerate(misses):
        if miss < NARROWER_MISS * misses[best]:
            best = at
    if len(clones) > 1:
        told = (
            f"{clone.policy.hidden[0]}: {miss:.4f}"
            for clone, miss in zip(clones, misses, strict=True)
        )
        logging.info(
            "behaviour cloning: policies are %d wide; by width, root of the mean squared error of "
            "held-out actions: %s",
            clones[best].policy.hidden[0],
            "; ".join(told),
        )
    return best


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
