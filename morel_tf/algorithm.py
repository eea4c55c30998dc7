"""MOReL on one page: Algorithm 1 of Kidambi et al. 2020."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from morel_tf.config import (
    CloningConfig,
    DynamicsConfig,
    JudgeConfig,
    PlannerConfig,
    PmdpConfig,
    UsadConfig,
)
from morel_tf.models import usad
from morel_tf.planning import npg_planner, pessimistic_mdp, start
from morel_tf.planning.pessimistic_mdp import PessimisticMdp, RollOut
from offline_tf.datasets import velocities
from offline_tf.judging import judge as judging
from offline_tf.judging.judge import Judge
from offline_tf.models import gaussian_ensemble
from offline_tf.models.given_signals import GivenSignals
from offline_tf.numerics import holdout
from offline_tf.policies.gaussian import GaussianPolicy, NumpyPolicy
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, TaskSpec, Transitions


class Knobs(NamedTuple):
    """The knobs of the six stages."""

    dynamics: DynamicsConfig
    usad: UsadConfig
    pmdp: PmdpConfig
    judge: JudgeConfig
    cloning: CloningConfig
    planner: PlannerConfig


class Learned(NamedTuple):
    """What MOReL leaves behind.

    Attributes:
      policy: the planned policy.
      cloned: the policy that planning started from.
      ensemble, calibrations: the detector; "planning" is what the P-MDP used, "observation" and
        "history" are what a deployed detector uses.
      weights: [S], the detector's space.
      pmdp: what the policy was planned in.
      planned: numbers of the final policy, see `npg_planner.plan`.
      judge: models apart that judged it, or None.
      start: how planning began, see `start.Start`.
    """

    policy: GaussianPolicy
    cloned: NumpyPolicy
    ensemble: gaussian_ensemble.GaussianEnsemble
    calibrations: dict[str, usad.Calibration]
    weights: Array
    pmdp: PessimisticMdp
    planned: dict[str, float]
    judge: Judge | None
    start: dict[str, Any]


class Prepared(NamedTuple):
    """What the models are fitted on.

    Attributes:
      states, next_states: [N, S], observations with their clipped velocities restored.
      bounds: [E, 2], first row and one past the last of each episode.
      split: which rows train and which are held out; of those with a known next state.
      every_row: the same of all rows, for cloning.
      next_known: [N] bool, see `types.next_known`: a terminal row may lack its next state. Such rows
        count for cloning, the least reward and starts; not for the models and the detector.
    """

    states: Array
    next_states: Array
    bounds: Array
    split: holdout.Split
    every_row: holdout.Split
    next_known: Array


def prepare(
    task: TaskSpec,
    data: Transitions,
    knobs: Knobs,
    seed: int,
    dynamics_from: RunRecord | None = None,
) -> Prepared:
    """States and the split; arguments as of `morel`."""
    states, next_states = data.observations, data.next_observations
    if knobs.dynamics.velocities == "restored":
        states, next_states = velocities.restore(task, data)
    bounds = data.episode_bounds()
    # Models that are taken over have seen the rows that their own run trained on.
    split_seed = seed if dynamics_from is None else gaussian_ensemble.split_seed(dynamics_from)
    share = holdout.share_of(knobs.dynamics.holdout_share, len(data))
    split = holdout.split_episodes(bounds, share, split_seed, by_time=task.log is not None)
    known = data.next_known
    return Prepared(states, next_states, bounds, split.where(known), split, known)


def morel(
    task: TaskSpec,
    *,
    physics: str,
    data: Transitions,
    prepared: Prepared,
    knobs: Knobs,
    seed: int,
    record: RunRecord,
    evaluate: Callable[[NumpyPolicy, int], dict[str, float]],
    keep_paths: Callable[[RollOut, int], None],
    dynamics_from: RunRecord | None = None,
) -> Learned:
    """Learns a policy from a data set alone.

    Args:
      task: reward and termination functions, bounds.
      physics: which robot the data is of.
      data: the data set D.
      prepared: see `prepare`.
      knobs: of the stages.
      seed: of everything random.
      record: the run folder; complete stages are read from it.
      evaluate: (policy, iteration) -> numbers for the log; nothing depends on them.
      keep_paths: (paths in the P-MDP, iteration), to look at later.
      dynamics_from: another run whose fitted models are taken over.

    Returns:
      A Learned.
    """
    states, next_states, bounds, split, every_row, next_known = prepared

    # Line 2: learn the approximate dynamics model P^ on D.
    statistics = gaussian_ensemble.data_statistics(
        task, knobs.dynamics.scale, states, data.actions, next_states, usable=next_known
    )
    hidden = gaussian_ensemble.hidden_of(knobs.dynamics.dynamics_hidden, len(data))
    ensemble = gaussian_ensemble.GaussianEnsemble(
        task, knobs.dynamics, *statistics, seed, hidden=hidden
    )
    gaussian_ensemble.fit_or_load(
        ensemble,
        data=(states, data.actions, next_states),
        split=split,
        config=knobs.dynamics,
        names=task.observation_names,
        seed=seed,
        record=record,
        other=dynamics_from,
    )

    # Line 3: construct the USAD from the ensemble's disagreement on D.
    weights = usad.space_weights(task, ensemble, knobs.usad.disagreement_space)
    calibrations = usad.calibrate_or_load(
        task,
        ensemble=ensemble,
        weights=weights,
        data=data,
        states=(states, next_states),
        held_out=split.held_out,
        config=knobs.usad,
        record=record,
    )

    # Line 4: construct the pessimistic MDP.
    threshold = calibrations["planning"].threshold
    pmdp = pessimistic_mdp.make(
        task,
        physics=physics,
        ensemble=ensemble,
        weights=weights,
        threshold=threshold,
        least_reward=float(data.rewards.min()),
        mean_reward=float(data.rewards.mean(dtype="float64")),
        config=knobs.pmdp,
        given=GivenSignals.of(task, data),
    )

    # Models that nothing is planned in: they compare policies, and promise.
    judge = None
    if knobs.judge.judge_members:
        judge = judging.fit_or_load(
            task,
            physics=physics,
            data=data,
            config=knobs.judge,
            seed=seed,
            record=record,
            other=dynamics_from,
        )

    # Line 5: plan in it, from a behaviour-cloned start.
    begun = start.clone_or_load(
        npg_planner.units_of(task, knobs.planner, ensemble.inputs),
        task=task,
        data=data,
        split=every_row,
        config=knobs.cloning,
        planner=knobs.planner,
        seed=seed,
        judge=judge,
        record=record,
    )
    planned = npg_planner.plan(
        pmdp,
        policy=begun.policy,
        first_rows=bounds[:, 0],
        states=states,
        config=knobs.planner,
        seed=seed,
        stage=record.stage("planning"),
        evaluate=evaluate,
        keep_paths=keep_paths,
        judge=judge,
        worth=None if judge is None else lambda: start.worth_of(begun, data, judge),
    )
    return Learned(
        policy=begun.policy,
        cloned=begun.cloned,
        ensemble=ensemble,
        calibrations=calibrations,
        weights=weights,
        pmdp=pmdp,
        planned=planned,
        judge=judge,
        start=begun.result,
    )
