"""What planning starts from: a clone, with the noise of the data around it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from morel_tf.config import CloningConfig, PlannerConfig
from morel_tf.planning import npg_planner
from offline_tf.judging import clones
from offline_tf.judging.judge import Judge, Judgement
from offline_tf.numerics.holdout import Split
from offline_tf.policies import cloning
from offline_tf.policies.gaussian import GaussianPolicy, NumpyPolicy, Units
from offline_tf.run_folder.record import RunRecord
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, TaskSpec, Transitions

STAGE = "behavior_cloning"
_NARROWEST = -7.0  # log standard deviation: a thousandth of the unit


class Start(NamedTuple):
    """A policy to begin with.

    Attributes:
      policy: what planning changes.
      cloned: the clone, with the noise that planning begins with.
      result: of the stage: "mse", "residual", "hidden" widths, "share" of the episodes, "promises" by
        share, "worth" of the clone and its "centre"; see `clones.Chosen`.
    """

    policy: GaussianPolicy
    cloned: NumpyPolicy
    result: dict[str, Any]


def first_policies(
    units: Units, config: CloningConfig, planner: PlannerConfig, seed: int
) -> list[GaussianPolicy]:
    """Random policies of every width that clones are compared of, narrowest first.

    Args:
      units: of the policies.
      config: of cloning; by epochs or without steps nothing compares them.
      planner: the noise, and the hidden widths.
      seed: of the weights.
    """
    widths = npg_planner.widths_of(planner)
    if config.bc_epochs or not config.bc_steps:
        widths = widths[:1]
    return [npg_planner.new_policy(units, planner, seed, hidden) for hidden in widths]


def hidden_of(config: PlannerConfig, stage: Stage) -> tuple[int, ...]:
    """Hidden widths of the policies of a run whose start is there.

    Args:
      config: --policy_hidden.
      stage: of the start.
    """
    return config.policy_hidden or tuple(stage.result["hidden"])


def clone_or_load(
    units: Units,
    *,
    task: TaskSpec,
    data: Transitions,
    split: Split,
    config: CloningConfig,
    planner: PlannerConfig,
    seed: int,
    judge: Judge | None,
    record: RunRecord,
) -> Start:
    """Clones, and sets the noise; or reads both from the run folder.

    Without --init_log_std the noise is that of the data around their clone: planning explores where
    the data are.

    Args:
      units: of the policy.
      task: bounds.
      data: the data set.
      split: training and held-out rows.
      config: of cloning.
      planner: the noise, and the hidden widths.
      seed: of the first weights and of the minibatches.
      judge: compares clones of several shares of the episodes; None: all are cloned.
      record: the run folder; stages "behavior_cloning" and those of `clones.choose`.
    """
    stage = record.stage(STAGE)
    if stage.complete:
        policy = npg_planner.new_policy(units, planner, seed, hidden_of(planner, stage))
        cloning.load(policy, stage)
        return Start(policy, policy.numpy(), dict(stage.result))
    chosen = clones.choose(
        first_policies(units, config, planner, seed),
        task=task,
        data=data,
        split=split,
        share=config.bc_share,
        fitting=clones.Fitting(
            steps=config.bc_steps,
            epochs=config.bc_epochs,
            batch_size=config.bc_batch_size,
            learning_rate=config.bc_learning_rate,
            restarts=config.bc_restarts,
            loss=config.bc_loss,
            held_out=config.bc_held_out,
        ),
        seed=seed,
        judge=judge,
        record=record,
    )
    policy = npg_planner.new_policy(units, planner, seed, chosen.policy.hidden)
    policy.assign(chosen.policy)
    if planner.init_log_std is None:
        residual = np.array(chosen.result["residual"], np.float32)
        policy.log_std.assign(log_std_of(residual, policy.units.output_scale, planner))
    promises = {f"{share:g}": promise for share, promise in chosen.promises.items()}
    kept = {**chosen.result, "share": chosen.share, "promises": promises}
    kept |= {"worth": chosen.worth.get(chosen.share), "centre": chosen.centres.get(chosen.share)}
    cloning.keep(policy, kept, stage)
    return Start(policy, policy.numpy(), dict(stage.result))


def worth_of(start: Start, data: Transitions, judge: Judge) -> Judgement:
    """What the judge says of the clone, if beyond HALT it earns what its episodes did.

    Args:
      start: with the clone.
      data: that it was fitted to.
      judge: the judge.
    """
    return judge.policy(start.cloned, clones.episodes_go_on(data, start.result["share"], judge))


def log_std_of(residual: Array, unit: Array, config: PlannerConfig) -> Array:
    """[A] log standard deviation of a policy whose data lie so far around it.

    Args:
      residual: [A] root of the mean squared distance, in the task's units.
      unit: [A] of the policy's outputs, in which the bounds of the noise are.
      config: the bounds.
    """
    log_std = np.log(np.maximum(residual / unit, 1e-6))
    least = _NARROWEST if config.min_log_std is None else config.min_log_std
    bounded = np.clip(log_std, least, config.max_log_std)
    return (bounded + np.log(unit)).astype(np.float32)
