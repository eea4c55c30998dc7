"""MOPP's learning on one page: fit dynamics, behaviour and Q; set the pruning limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mopp_tf import behavior, dynamics, fitted_q, rows
from mopp_tf.config import BehaviorConfig, DynamicsConfig, ModelConfig, PlannerConfig, QConfig
from mopp_tf.rollout import Models
from offline_tf import holdout, standardize
from offline_tf.run_record import RunRecord, Stage
from offline_tf.types import TaskSpec, Transitions, UserError

_LIMIT_ROWS = 20_000


class Knobs(NamedTuple):
    """The knobs of the stages."""

    model: ModelConfig
    dynamics: DynamicsConfig
    behavior: BehaviorConfig
    q: QConfig
    planner: PlannerConfig


class Learned(NamedTuple):
    """What the fits leave behind: the models, the units of rewards, the pruning limit L."""

    models: Models
    scale: rows.RewardScale
    limit: float


def learn(
    task: TaskSpec,
    data: Transitions,
    knobs: Knobs,
    seed: int,
    record: RunRecord,
    models_from: RunRecord | None = None,
) -> Learned:
    """Fits everything that the planner needs (MOPP, Algorithm 1, lines 1 to 3).

    Args:
      task: dimensions and bounds.
      data: the data set.
      knobs: of the stages.
      seed: of everything random.
      record: the run folder; complete stages are read from it.
      models_from: a run whose fitted models are taken over.

    Returns:
      A Learned.
    """
    scale = rows.reward_scale(data.rewards, knobs.dynamics.reward_scaling)
    table = rows.prepare(task, data, scale, knobs.behavior.return_weighting)
    split_seed = seed if models_from is None else models_from.manifest["seed"]
    split = holdout.split_episodes(data.episode_bounds(), knobs.model.holdout_share, split_seed)
    normalizer = rows.fit_normalizer(table, knobs.dynamics.targets, knobs.model.normalize)
    change = dynamics.change_scale(table)
    models = build(task, knobs, normalizer, change, seed)
    names = (task.observation_names, task.action_names)

    def fit_dynamics(stage: Stage) -> dict[str, float]:
        return dynamics.fit(
            models.dynamics,
            table,
            split,
            names[0],
            knobs.model,
            knobs.dynamics,
            normalizer,
            seed,
            stage,
        )

    def fit_behavior(stage: Stage) -> dict[str, float]:
        return behavior.fit(
            models.behavior,
            table,
            split,
            names[1],
            knobs.model,
            knobs.behavior,
            seed,
            stage,
        )

    def fit_q(stage: Stage) -> dict[str, float]:
        return fitted_q.fit(
            models.q,
            models.behavior,
            table,
            split,
            knobs.model,
            knobs.q,
            seed,
            stage,
        )

    _fit_or_load("dynamics", models.dynamics.weights, fit_dynamics, record, models_from)
    _fit_or_load("behavior", models.behavior.weights, fit_behavior, record, models_from)
    _fit_or_load("q", models.q.weights, fit_q, record, models_from)

    stage = record.stage("limit")
    if not stage.complete:
        judged = split.judged(_LIMIT_ROWS)
        doubts = models.dynamics.uncertainties(
            table.states[judged], table.actions[judged], knobs.planner.uncertainty_units
        )
        quantiles = {f"q{100 * q:g}": float(np.quantile(doubts, q)) for q in (0.5, 0.9, 0.99, 1.0)}
        limit = knobs.planner.uncertainty_limit
        if not limit:
            limit = float(np.quantile(doubts, knobs.planner.uncertainty_quantile))
        stage.finish(
            {
                "limit": limit,
                "units": knobs.planner.uncertainty_units,
                "rejected": float((doubts > limit).mean()),
                **quantiles,
                "reward_scale": scale._asdict(),
                "change_scale": change.astype(float).tolist(),
                "normalizer": {
                    name: [part.astype(float).tolist() for part in values]
                    for name, values in normalizer._asdict().items()
                },
            }
        )
    return Learned(models, scale, stage.result["limit"])


def build(
    task: TaskSpec,
    knobs: Knobs,
    normalizer: rows.Normalizer,
    change_scale: np.ndarray,
    seed: int,
) -> Models:
    """Makes the networks; nothing is fitted yet."""
    return Models(
        behavior.BehaviorModel(task, knobs.model, knobs.behavior, normalizer, seed),
        dynamics.DynamicsModel(task, knobs.model, knobs.dynamics, normalizer, change_scale, seed),
        fitted_q.QFunction(task, knobs.q, normalizer, seed),
    )


def _fit_or_load(
    name: str,
    weights: list[tf.Variable],
    fit: Callable[[Stage], Any],
    record: RunRecord,
    models_from: RunRecord | None,
) -> None:
    """Fits one part, or reads it where this run, or another, has fitted it."""
    stage = record.stage(name)
    stage.track(weights)
    if stage.complete:
        stage.restore()
        return
    if models_from is None:
        work = record.stage(f"{name}_fit")
        result = fit(work)
        seconds: float | None = work.seconds()
    else:
        source = models_from.stage(name)
        source.track(weights)
        source.restore()
        result, seconds = source.result, None
    stage.save(1)
    stage.finish(result, seconds)


def load(task: TaskSpec, knobs: Knobs, seed: int, record: RunRecord) -> Learned:
    """Rebuilds what a run has fitted from its folder alone.

    Raises:
      UserError: the models are not fitted yet.
    """
    stage = record.stage("limit")
    if not stage.complete:
        raise UserError(
            f"--workdir: the models of {record.folder} are not fitted yet; train it first"
        )
    kept = stage.result
    normalizer = rows.Normalizer(
        **{
            name: standardize.Statistics(*(np.array(part, np.float32) for part in values))
            for name, values in kept["normalizer"].items()
        }
    )
    change = np.array(kept["change_scale"], np.float32)
    models = build(task, knobs, normalizer, change, seed)
    parts = models._asdict()
    for name in ("dynamics", "behavior", "q"):
        found = record.stage(name)
        found.track(parts[name].weights)
        found.restore()
    return Learned(models, rows.RewardScale(**kept["reward_scale"]), kept["limit"])
