"""The judge: models that nothing is planned in say what a controller would return.

A policy is improved until the models that it is planned in can be improved upon no further, errors
included. Models that were fitted to other draws of the data's episodes make other errors. So a return
that they agree on is worth more than the planner's own. Where they disagree an episode ends (HALT).
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from offline_tf.config.judge_config import JudgeConfig
from offline_tf.config.knobs import rebuild
from offline_tf.datasets import velocities
from offline_tf.evaluation import episodes as episode_loop
from offline_tf.judging import model_error
from offline_tf.judging.model_simulator import Models, ModelSimulator
from offline_tf.models import compilation, gaussian_ensemble
from offline_tf.models.disagreement import (
    episode_maxima,
    largest_pairwise_distance,
    threshold_that_cuts,
)
from offline_tf.models.given_signals import GivenSignals
from offline_tf.numerics import holdout, large_columns, seeds
from offline_tf.policies.gaussian import NumpyPolicy
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, TaskSpec, Tensor, Transitions, UserError

STAGE, _MODELS = "judge", "judge_models"
# 95 % quantiles of Student's distribution with 1 to 15 degrees of freedom.
_STUDENT_95 = (
    *(6.314, 2.920, 2.353, 2.132, 2.015),
    *(1.943, 1.895, 1.860, 1.833, 1.812),
    *(1.796, 1.782, 1.771, 1.761, 1.753),
)
# 80 % quantiles of the same.
_STUDENT_80 = (
    *(1.376, 1.061, 0.978, 0.941, 0.920),
    *(0.906, 0.896, 0.889, 0.883, 0.879),
    *(0.876, 0.873, 0.870, 0.868, 0.866),
)
# 2/3 quantiles of the same.
_STUDENT_67 = (
    *(0.577, 0.500, 0.476, 0.464, 0.457),
    *(0.453, 0.449, 0.447, 0.445, 0.444),
    *(0.443, 0.442, 0.441, 0.440, 0.439),
)
# Where more of a controller's episodes meet HALT, the clone's count for what they earned beyond it.
MOSTLY_HALTED = 0.5
_BATCH = 8192
_LOW_REWARD = 0.05  # quantile of the data's rewards


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What `gaussian_ensemble` wants to know."""

    ensemble_size: int
    dynamics_hidden: tuple[int, ...]
    dynamics_steps: int
    dynamics_patience: int
    dynamics_epochs: int = 0
    dynamics_batch_size: int = 256
    dynamics_learning_rate: float = 1e-3
    dynamics_final_rate_share: float = 0.0
    covariance: str = "fixed"
    precision: str = "float32"


class Judgement(NamedTuple):
    """What the judge's models say of a controller.

    Attributes:
      returns: [M, E] undiscounted, of episodes up to the time limit or HALT, by the model that drives.
      least: [M, E], of the same episodes, where each step pays the least that any model predicts.
      lengths: [M, E] steps.
      halted: [M, E] bool, the episode met HALT.
      broken: [M, E] steps in which a limit of the task's signals was broken; None of a task without.
      decisions: what a controller with memory said of its decisions, in the mean over all of them.
    """

    returns: Array
    least: Array
    lengths: Array
    halted: Array
    broken: Array | None = None
    decisions: Mapping[str, float] = MappingProxyType({})

    @property
    def expected(self) -> float:
        """Mean return over models and starts."""
        return float(self.returns.mean())

    @property
    def centre(self) -> float:
        """Mean of `least`."""
        return float(self.least.mean())

    @property
    def spread(self) -> float:
        """How far one more model's mean return may lie from the centre.

        sqrt(s^2 (1 + 1/M) + e^2) with s the standard deviation of the models' means and e the standard
        error over the starts.
        """
        return spread_of(self.least)

    @property
    def promise(self) -> float:
        """Lower bound of the true mean return, taken as one more model's: one in twenty is lower."""
        return promise_of(self.centre, self.spread, len(self.least))

    def numbers(self) -> dict[str, float]:
        """For logs."""
        by_model = self.returns.mean(axis=1)
        limits = {}
        if self.broken is not None:
            limits["limits_broken"] = float(self.broken.sum() / self.lengths.sum())
        return limits | {
            "promise": self.promise,
            "expected": self.expected,
            "models_apart": float(by_model.max() - by_model.min()),
            "halted_share": float(self.halted.mean()),
            "length": float(self.lengths.mean()),
        }


def promise_of(centre: float, spread: float, models: int) -> float:
    """A bound: centre - t * spread, t the 95 % quantile of Student's distribution of M - 1 degrees.

    Args:
      centre, spread: see `Judgement`.
      models: M.
    """
    return centre - _STUDENT_95[models - 2] * spread


def gain(difference: Array, usual: float = 0.0) -> float:
    """Lower bound of how much more one controller returns than another; one in five is lower.

    What models and starts have in common falls out, so it tells more than the difference of two
    promises.

    Args:
      difference: [M, E], of `Judgement.least` of both, from the same starts.
      usual: the least that the spread counts for, see `spread_of`.
    """
    spread = max(spread_of(difference), usual)
    return float(difference.mean()) - _STUDENT_80[len(difference) - 2] * spread


def likely_gain_of(centre: float, spread: float, models: int) -> float:
    """A bound: centre - t * spread, t the 2/3 quantile of Student's distribution of M - 1 degrees.

    Args:
      centre, spread: of a difference, see `gain`.
      models: M.
    """
    return centre - _STUDENT_67[models - 2] * spread


def spread_of(values: Array) -> float:
    """[M, E] by model and start; see `Judgement.spread`."""
    models, starts = values.shape
    of_models = values.mean(axis=1).var(ddof=1) * (1.0 + 1.0 / models)
    return float(np.sqrt(of_models + values.mean(axis=0).var(ddof=1) / starts))


class Judge:
    """Fitted models, their threshold, and the starts that every controller is judged from.

    Attributes:
      models: what episodes are made of.
      starts: [E, S] states.
      error: held-out squared error of the models, where 1 is predicting the mean change: over one
        step or over ten, whichever is less; see `model_error`.
      rows: [E], of the starts in the data; None where nothing follows a log.
      passed: [E] int64, steps of their episodes that the starts have behind them.
    """

    def __init__(
        self,
        models: Models,
        starts: Array,
        error: float = 0.0,
        rows: Array | None = None,
        passed: Array | None = None,
    ) -> None:
        """Holds them; `passed` None: the starts are episodes'."""
        self.models = models
        self.starts = starts
        self.error = error
        self.rows = rows
        self.passed = np.zeros(len(starts), np.int64) if passed is None else passed

    def run(
        self,
        start: Callable[[Tensor], Any],
        decide: Callable[[Tensor, Any, Tensor], tuple[Tensor, Any, Mapping[str, Tensor]]],
        seed: int = 0,
        after_halt: Array | None = None,
    ) -> Judgement:
        """Judges a controller with memory.

        Args:
          start: first observations [K, S] -> memory.
          decide: (observations [K, S], memory, seed [2]) -> actions [K, A], memory, numbers of the
            decision [K] by name.
          seed: of the controller's draws.
          after_halt: see `ModelSimulator`.
        """
        simulator = ModelSimulator(self.models, self.starts, after_halt, self.rows)
        memory = start(tf.constant(simulator.observations()))
        told: Mapping[str, Tensor] = {}

        def act(number: int, observations: Array) -> Array:
            nonlocal memory, told
            key = seeds.stateless(seed, "judge/plan", number)
            actions, memory, told = decide(tf.constant(observations), memory, key)
            return actions.numpy()

        return self._episodes(simulator, act, lambda: told)

    def policy(self, policy: NumpyPolicy, after_halt: Array | None = None) -> Judgement:
        """Judges a policy that acts by its mean; after_halt: see `ModelSimulator`."""
        simulator = ModelSimulator(self.models, self.starts, after_halt, self.rows)
        return self._episodes(simulator, lambda _, observations: policy.mean(observations))

    def unpaid(self, judgement: Judgement, after_halt: Array) -> Array:
        """What `Judgement.least` of a controller that was paid beyond HALT is without that, [M, E].

        Args:
          judgement: of a run with `after_halt`.
          after_halt: see `ModelSimulator`.
        """
        models = self.models
        last = judgement.lengths - 1  # [M, E], the step that met HALT
        as_others = (models.task.max_episode_steps - last) * float(models.halted_reward)
        ends = np.broadcast_to(after_halt, (len(after_halt), last.shape[1]))  # [T, E]
        paid = ends[np.minimum(last, len(ends) - 1), np.arange(last.shape[1])]
        return judgement.least - np.where(judgement.halted, paid - as_others, 0.0)

    def _episodes(
        self,
        simulator: ModelSimulator,
        act: Callable[[int, Array], Array],
        told: Callable[[], Mapping[str, Tensor]] = dict,
    ) -> Judgement:
        """All episodes; `told` says what `act` last said of its decisions."""
        count = simulator.count
        returns, least, lengths = np.zeros(count), np.zeros(count), np.zeros(count, np.int64)
        halted, broken = np.zeros(count, bool), np.zeros(count, np.int64)
        decisions: defaultdict[str, float] = defaultdict(float)
        limit = simulator.task.max_episode_steps
        unused = np.random.default_rng(0)
        for step in episode_loop.steps(simulator, act, refill=lambda _: unused, limit=limit):
            returns += np.where(step.alive, simulator.expected, 0.0)
            least += np.where(step.alive, step.rewards, 0.0)
            lengths += step.alive
            halted |= step.alive & simulator.unknown
            broken += step.alive & simulator.broken
            for name, numbers in told().items():
                decisions[name] += float(np.asarray(numbers, np.float64)[step.alive].sum())
        shape = (self.models.ensemble.size, len(self.starts))
        return Judgement(
            returns=returns.reshape(shape),
            least=least.reshape(shape),
            lengths=lengths.reshape(shape),
            halted=halted.reshape(shape),
            broken=None if simulator.task.violation is None else broken.reshape(shape),
            decisions={name: total / int(lengths.sum()) for name, total in decisions.items()},
        )


def check_episodes(config: JudgeConfig, data: Transitions) -> None:
    """Checks, before anything is fitted, that data have episodes to judge by.

    Raises:
      UserError: most of them have one step, as those of shuffled rows.
    """
    bounds = data.episode_bounds()
    if config.judge_members and np.median(bounds[:, 1] - bounds[:, 0]) < 2:
        raise UserError(
            "--judge_members: the judge compares controllers over whole episodes, and most of the "
            "data's have one step; give the rows in the order in which they were recorded, or "
            "--judge_members=0"
        )


def fit_or_load(
    task: TaskSpec,
    *,
    physics: str,
    data: Transitions,
    config: JudgeConfig,
    seed: int,
    record: RunRecord,
    other: RunRecord | None = None,
) -> Judge:
    """Fits the judge's models and sets their threshold, or reads both from the run folder.

    Held-out episodes decide when the fit ends, and the threshold.

    Args:
      task: with reward and termination.
      physics: which robot the data is of.
      data: the data set.
      config: the knobs.
      seed: of the run; the judge draws from streams of its own.
      record: the run folder; stages "judge_models_fit", "judge_models" and "judge".
      other: a run on the same data, whose judge is taken over if it has one with these knobs.
    """
    if other is not None and not _has_judge(other, config):
        other = None
    states, next_states = velocities.restore(task, data)
    bounds = data.episode_bounds()
    own_seed = int(seeds.generator(seed, "judge").integers(2**31 - 1))
    if other is not None:
        own_seed = gaussian_ensemble.split_seed(other, _MODELS)
    known = data.next_known
    share = holdout.share_of(None, len(data))
    split = holdout.split_episodes(bounds, share, own_seed, by_time=task.log is not None)
    split = split.where(known)
    settings = settings_of(config)
    statistics = gaussian_ensemble.data_statistics(
        task, "std", states, data.actions, next_states, usable=known
    )
    ensemble = gaussian_ensemble.GaussianEnsemble(task, settings, *statistics, own_seed)
    gaussian_ensemble.fit_or_load(
        ensemble,
        data=(states, data.actions, next_states),
        split=split,
        config=settings,
        names=task.observation_names,
        seed=own_seed,
        record=record,
        other=other,
        stage=_MODELS,
        own_rows=gaussian_ensemble.resampled(split.train, bounds, config.judge_members, own_seed),
    )
    weights = ensemble.mask.astype(np.float32)  # [S], standardised deltas
    stage = record.stage(STAGE)
    if not stage.complete:
        rows = np.sort(split.held_out) if len(split.held_out) else np.flatnonzero(known)
        maxima = episode_maxima(
            _disagreement(ensemble, weights, states[rows], data.actions[rows]), rows, bounds
        )
        threshold = threshold_that_cuts(maxima, config.judge_cut_share, config.judge_margin)
        low = float(np.quantile(data.rewards, _LOW_REWARD))
        over_steps = model_error.over_steps(
            ensemble,
            task=task,
            states=states,
            actions=data.actions,
            next_states=next_states,
            bounds=bounds,
            split=split,
        )
        stage.finish(
            {
                "threshold": threshold,
                "error_over_steps": over_steps,
                "episodes": len(maxima),
                "halted_reward": min(0.0, low),
                "starts": _starts(
                    rows if task.log is not None else bounds[:, 0], config.judge_starts, own_seed
                ).tolist(),
            }
        )
        logging.info(
            "judge: threshold %.3g, above which %.0f %% of %d held-out episodes go",
            threshold,
            100 * float((maxima > threshold).mean()),
            len(maxima),
        )
    result = stage.result
    given = GivenSignals.of(task, data)
    limits = result["threshold"], result["halted_reward"]
    models = Models(task, physics, ensemble, weights, *limits, given)
    fitted, first = record.stage(_MODELS).result, np.array(result["starts"])
    errors = [fitted[split.judged_kind]["mse"], result.get("error_over_steps")]
    return Judge(models, states[first], min(e for e in errors if e is not None), first)


def _has_judge(other: RunRecord, config: JudgeConfig) -> bool:
    """Whether a run has a fitted judge with the same knobs."""
    theirs = rebuild(JudgeConfig, other.manifest["flags"])
    return theirs == config and other.stage(_MODELS).complete


def settings_of(config: JudgeConfig) -> gaussian_ensemble.Settings:
    """The knobs of the judge's models."""
    return _Settings(
        config.judge_members, config.judge_hidden, config.judge_steps, config.judge_steps // 3
    )


def _starts(first: Array, count: int, seed: int) -> Array:
    """Rows that `count` episodes start from, drawn without repeats while there are enough.

    Args:
      first: [n], of episodes; of a plant's log, whose pieces begin anywhere, all held-out rows.
      count: of starts.
      seed: of the draw.
    """
    stream = seeds.generator(seed, "judge/starts")
    return stream.choice(first, size=count, replace=len(first) < count)


def _disagreement(
    ensemble: gaussian_ensemble.GaussianEnsemble, weights: Array, states: Array, actions: Array
) -> Array:
    """[N, S], [N, A] -> [N]."""

    @compilation.ForAnyLength
    def chunk(s: Tensor, a: Tensor) -> Tensor:
        return largest_pairwise_distance(ensemble.means(ensemble.bind()(s, a)) * weights)

    out = np.empty(len(states), np.float32)
    for part in large_columns.blocks(len(states), _BATCH):
        out[part] = chunk(tf.constant(states[part]), tf.constant(actions[part])).numpy()
    return out
