"""MOPP's learning on one page: fit dynamics, behaviour and Q; set the limit; choose."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from mopp_tf.config import (
    BehaviorConfig,
    ChoiceConfig,
    DynamicsConfig,
    JudgeConfig,
    ModelConfig,
    PlannerConfig,
    QConfig,
)
from mopp_tf.models import behavior, dynamics, fitted_q, rows, share
from mopp_tf.objectives import Reward
from mopp_tf.planning import choice, planner_reward
from mopp_tf.planning.rollout import Models
from offline_tf.datasets import velocities
from offline_tf.judging import clones, good_episodes
from offline_tf.judging.judge import Judge
from offline_tf.models import critics, learned_task
from offline_tf.numerics import holdout, standardize
from offline_tf.run_folder.record import RunRecord
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, TaskSpec, Transitions, UserError

_LIMIT_ROWS = 20_000
_SETTLED = 1.5  # time constants; fewer are warned of
_SIGMA_ROWS = 20_000
NO_JUDGE = JudgeConfig(judge_members=0)


class Knobs(NamedTuple):
    """The knobs of the stages."""

    model: ModelConfig
    dynamics: DynamicsConfig
    behavior: BehaviorConfig
    q: QConfig
    planner: PlannerConfig
    judge: JudgeConfig = NO_JUDGE
    choice: ChoiceConfig = ChoiceConfig()


class Prepared(NamedTuple):
    """The data as the models see it.

    Attributes:
      scale: of rewards.
      normalizer: of inputs and targets.
      change_scale: [S + 1], the unit of disagreement "delta".
      models_seed: of the run that fitted the models: it decides their orderings and held-out episodes.
      table, split: the rows, None where a run is rebuilt without its data.
      share, behavior_split: of the episodes, and their rows, that the behaviour is fitted to.
      followed: [N] bool, rows of these episodes; None: of all.
      episodes_go_on: [T, 1] what these episodes earn from each step on, see `clones.episodes_go_on`.
      few_go_on: [T, E] the same, from where the episodes of `few_starts` begin.
      reward: the task's own; None where it has none.
      reward_rows: numbers of rows that neither it nor the dynamics models were fitted to.
      judge, few_starts: promise, and compare planners, see `choice.few_starts`; None: nobody does.
    """

    scale: rows.RewardScale
    normalizer: rows.Normalizer
    change_scale: Array
    models_seed: int = 0
    table: rows.Rows | None = None
    split: holdout.Split | None = None
    share: float = 1.0
    behavior_split: holdout.Split | None = None
    followed: Array | None = None
    episodes_go_on: Array | None = None
    few_go_on: Array | None = None
    judge: Judge | None = None
    few_starts: Judge | None = None
    reward: Reward | None = None
    reward_rows: Array | None = None

    @property
    def dynamics_split(self) -> holdout.Split:
        """The rows of `split` whose next state is known: what dynamics and the limit are made from."""
        assert self.table is not None and self.split is not None
        return self.split.where(self.table.next_known)


class Learned(NamedTuple):
    """What the fits leave behind: the models, the units of rewards, the pruning limit L.

    Attributes:
      planner: the knobs of the planner, as flags, the rule of sigma_max and the judge have set them.
    """

    models: Models
    scale: rows.RewardScale
    limit: float
    planner: PlannerConfig


def prepare(
    task: TaskSpec,
    *,
    data: Transitions,
    knobs: Knobs,
    seed: int,
    record: RunRecord,
    models_from: RunRecord | None = None,
    judge: Judge | None = None,
    reward: Reward | None = None,
) -> Prepared:
    """Rows, units and held-out episodes; which episodes are good.

    The units are kept in the run folder (stage "units"), and the share of the good ones ("share").
    `reward` is the task's own, see `objectives.reward_of`.
    """
    scale = rows.reward_scale(data.rewards, knobs.dynamics.reward_scaling)
    table = rows.prepare(task, data, scale, knobs.behavior.return_weighting)
    models_seed = seed if models_from is None else load_units(models_from).models_seed
    split = split_of(task, data, knobs, models_seed)
    normalizer = rows.fit_normalizer(table, knobs.dynamics.targets, knobs.model.normalize)
    change = dynamics.change_scale(table)
    stage = record.stage("units")
    if not stage.complete:
        stage.finish(
            {
                "models_seed": models_seed,
                "reward_scale": scale._asdict(),
                "change_scale": change.astype(float).tolist(),
                "normalizer": {
                    name: [part.astype(float).tolist() for part in values]
                    for name, values in normalizer._asdict().items()
                },
            }
        )
    good = share.choose_or_load(
        knobs.behavior.behavior_share,
        task=task,
        data=data,
        split=split,
        seed=seed,
        judge=judge,
        record=record,
        models_from=models_from,
    )
    good_rows = good_episodes.best_with_held_out(data, good, split)
    few_starts = go_on = few_go_on = None
    if judge is not None:
        few_starts = choice.few_starts(
            judge,
            states=velocities.restore(task, data)[0],
            bounds=data.episode_bounds(),
            split=good_rows,
            count=knobs.choice.judge_plan_starts,
            steps=knobs.choice.judge_plan_steps,
            seed=seed,
        )
        go_on = clones.episodes_go_on(data, good, judge)
        few_go_on = clones.episodes_go_on(data, good, judge, few_starts.passed)
    return Prepared(
        scale,
        normalizer,
        change,
        models_seed,
        table=table,
        split=split,
        share=good,
        behavior_split=good_rows,
        followed=share.is_good(data, good, split) if good < 1.0 else None,
        episodes_go_on=go_on,
        few_go_on=few_go_on,
        judge=judge,
        few_starts=few_starts,
        reward=reward,
        reward_rows=_reward_rows(task, data, split, seed, record),
    )


def _reward_rows(
    task: TaskSpec, data: Transitions, split: holdout.Split, seed: int, record: RunRecord
) -> Array:
    """Rows that say which reward is better: a learned one has held-out episodes of its own."""
    rows = split.where(data.next_known).judged(_LIMIT_ROWS)
    if not record.stage(learned_task.STAGE).complete:
        return rows
    return np.intersect1d(rows, learned_task.split_of(task, data, seed).held_out)


def split_of(task: TaskSpec, data: Transitions, knobs: Knobs, models_seed: int) -> holdout.Split:
    """Which episodes are held out from all fits."""
    share = holdout.share_of(knobs.model.holdout_share, len(data))
    by_time = task.log is not None
    return holdout.split_episodes(data.episode_bounds(), share, models_seed, by_time)


def load_units(record: RunRecord) -> Prepared:
    """Reads what `prepare` kept.

    Raises:
      UserError: the run has not come so far.
    """
    stage = record.stage("units")
    if not stage.complete:
        raise UserError(
            f"--workdir: the models of {record.folder} are not fitted yet; train it first"
        )
    units = stage.result
    normalizer = rows.Normalizer(
        **{
            name: standardize.Statistics(*(np.array(part, np.float32) for part in values))
            for name, values in units["normalizer"].items()
        }
    )
    return Prepared(
        rows.RewardScale(**units["reward_scale"]),
        normalizer,
        np.array(units["change_scale"], np.float32),
        units["models_seed"],
    )


def learn(
    task: TaskSpec,
    *,
    prepared: Prepared,
    knobs: Knobs,
    seed: int,
    record: RunRecord,
    models_from: RunRecord | None = None,
    q_from: RunRecord | None = None,
) -> Learned:
    """Fits everything that the planner needs (MOPP, Algorithm 1, lines 1 to 3).

    Args:
      task: dimensions and bounds.
      prepared: the data.
      knobs: of the stages.
      seed: of everything random.
      record: the run folder; complete stages are read from it.
      models_from: a run whose fitted dynamics and behaviour are taken over.
      q_from: a run whose fitted Q is taken over.

    Returns:
      A Learned.
    """
    table, split, good = prepared.table, prepared.split, prepared.behavior_split
    assert table is not None and split is not None and good is not None
    dynamics_split = prepared.dynamics_split
    models = build(task, knobs, prepared)

    # Line 1: dynamics models f_m(s', r | s, a).
    def fit_dynamics(stage: Stage) -> dict[str, Any]:
        return dynamics.fit(
            models.dynamics,
            rows=table,
            split=dynamics_split,
            names=task.observation_names,
            knobs=knobs.model,
            config=knobs.dynamics,
            normalizer=prepared.normalizer,
            seed=seed,
            stage=stage,
        )

    record.fit_or_load("dynamics", models.dynamics.weights, fit_dynamics, models_from)

    # Line 2: behaviour policy f_b(a | s).
    def fit_behavior(stage: Stage) -> dict[str, Any]:
        return behavior.fit(
            models.behavior,
            rows=table,
            split=good,
            names=task.action_names,
            knobs=knobs.model,
            config=knobs.behavior,
            seed=seed,
            stage=stage,
        )

    record.fit_or_load("behavior", models.behavior.weights, fit_behavior, models_from)

    # Line 3: its Q function, by fitted Q evaluation. Rows of other episodes say nothing of what a
    # behaviour that was fitted to the best ones does next.
    q_config = knobs.q
    if q_config.fqe_actions == "auto":
        next_actions = "behavior" if prepared.share < 1.0 else "data"
        q_config = dataclasses.replace(q_config, fqe_actions=next_actions)
    settled = time_constants(knobs.q)
    if settled < _SETTLED and not record.stage("q").complete:
        logging.warning(
            "Q has %.2g time constants to settle in (q_steps x target_rate x (1 - "
            "discount^q_return_steps)), so values far from an episode's end stay up to %.0f %% short; "
            "raise --target_rate or --q_return_steps",
            settled,
            100 * np.exp(-settled),
        )

    def fit_q(stage: Stage) -> dict[str, Any]:
        return fitted_q.fit(
            models.q,
            behavior=models.behavior,
            rows=table,
            split=split,
            knobs=knobs.model,
            config=q_config,
            seed=seed,
            stage=stage,
            followed=prepared.followed,
        )

    record.fit_or_load("q", models.q.weights, fit_q, q_from)

    stage = record.stage("limit")
    if not stage.complete:
        judged = dynamics_split.judged(_LIMIT_ROWS)
        uncertainties = models.dynamics.uncertainties(
            table.states[judged], table.actions[judged], knobs.planner.uncertainty_units
        )
        quantiles = {
            f"q{100 * q:g}": float(np.quantile(uncertainties, q)) for q in (0.5, 0.9, 0.99, 1.0)
        }
        limit = knobs.planner.uncertainty_limit
        if not limit:
            limit = float(np.quantile(uncertainties, knobs.planner.uncertainty_quantile))
        rejected = float((uncertainties > limit).mean())
        units = knobs.planner.uncertainty_units
        stage.finish({"limit": limit, "units": units, "rejected": rejected, **quantiles})
    limit = stage.result["limit"]

    # No line of the paper: whose reward, sigma_M by the data, and whether to plan at all.
    stage = record.stage("planner_reward")
    if knobs.planner.planner_reward == "auto" and not stage.complete:
        assert prepared.reward_rows is not None
        stage.finish(
            planner_reward.choose(
                models.dynamics,
                task=task,
                rows=table.at(prepared.reward_rows),
                scale=prepared.scale,
                reward=prepared.reward,
            )
        )
    stage = record.stage("sigma")
    if knobs.planner.sigma_max is None and not stage.complete:
        states = table.states[good.judged(_SIGMA_ROWS)]
        stage.finish(
            {"sigma_max": behavior.own_spread(models.behavior, states, choice.PAPER_SIGMA)}
        )
        logging.info("sigma_max: %.3g, the behaviour's own", stage.result["sigma_max"])
    if prepared.judge is not None and prepared.few_starts is not None:
        judged_by = judging(task, models=models, prepared=prepared, limit=limit, seed=seed)
        planner = by_rules(knobs.planner, record)
        minutes = knobs.choice.select_minutes if knobs.choice.select == "offline" else 0.0
        chosen = choice.choose_or_load(
            planner,
            judged_by(prepared.few_starts, after_halt=prepared.few_go_on),
            record,
            minutes,
        )
        count = knobs.choice.judge_promise_starts
        count = knobs.judge.judge_starts if chosen["chosen"] == choice.CLONE else count
        whole = choice.to_the_end(prepared.judge, count)
        choice.promise_or_load(
            planner,
            judged_by(whole),
            chosen,
            record,
            judged_by(whole, after_halt=prepared.episodes_go_on),
        )
    return Learned(models, prepared.scale, limit, chosen_planner(knobs, record))


def judging(
    task: TaskSpec, *, models: Models, prepared: Prepared, limit: float, seed: int
) -> Callable[..., Callable[[PlannerConfig], dict[str, Any]]]:
    """Returns (judge, after_halt) -> (knobs -> what it says of a planner); see `choice.judged_by`."""
    return functools.partial(
        choice.judged_by,
        task=task,
        models=models,
        scale=prepared.scale,
        limit=limit,
        seed=seed,
        reward=prepared.reward,
    )


def by_rules(planner: PlannerConfig, record: RunRecord) -> PlannerConfig:
    """The knobs with the sigma_max and the reward that rules have set, where they have none."""
    ruled = {}
    if planner.sigma_max is None:
        ruled["sigma_max"] = record.stage("sigma").result["sigma_max"]
    if planner.planner_reward == "auto":
        ruled["planner_reward"] = record.stage("planner_reward").result["chosen"]
    return dataclasses.replace(planner, **ruled)


def chosen_planner(knobs: Knobs, record: RunRecord) -> PlannerConfig:
    """The planner's knobs as rules and judge have set them, from the run folder.

    Raises:
      UserError: they have not yet.
    """
    planner, stage = knobs.planner, record.stage(choice.STAGE)
    judged = bool(knobs.judge.judge_members)
    needed = {
        choice.STAGE: judged,
        "sigma": planner.sigma_max is None,
        "planner_reward": planner.planner_reward == "auto",
    }
    record.check_complete(*(name for name, wanted in needed.items() if wanted))
    planner = by_rules(planner, record)
    if judged:
        return dataclasses.replace(planner, **stage.result["knobs"])
    return dataclasses.replace(planner, plan="never" if planner.plan == "never" else "always")


def time_constants(config: QConfig) -> float:
    """How many time constants of its fixed-point iteration a fit of Q lasts; exp(-this) is missing.

    A target moves by `target_rate` per step towards a network that is one backup, a contraction by
    gamma^k, ahead of it.
    """
    return config.q_steps * config.target_rate * (1.0 - config.discount**config.q_return_steps)


def build(task: TaskSpec, knobs: Knobs, prepared: Prepared) -> Models:
    """Makes the networks; nothing is fitted yet."""
    units, seed = prepared.normalizer, prepared.models_seed
    return Models(
        behavior.BehaviorModel(task, knobs.model, knobs.behavior, units, seed),
        dynamics.DynamicsModel(
            task,
            model=knobs.model,
            config=knobs.dynamics,
            normalizer=units,
            change_scale=prepared.change_scale,
            seed=seed,
        ),
        critics.QFunction(units.states, task.action_dim, knobs.q.q_hidden, seed),
    )


def load(task: TaskSpec, knobs: Knobs, record: RunRecord) -> Learned:
    """Rebuilds what a run has fitted from its folder alone.

    Raises:
      UserError: the models are not fitted yet.
    """
    prepared = load_units(record)
    record.check_complete("limit")
    models = build(task, knobs, prepared)
    parts = models._asdict()
    for name in ("dynamics", "behavior", "q"):
        stage = record.stage(name)
        stage.track(parts[name].weights)
        stage.restore()
    limit = record.stage("limit").result["limit"]
    return Learned(models, prepared.scale, limit, chosen_planner(knobs, record))
