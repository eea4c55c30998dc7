"""What a MOReL run measures: in the real simulator, for reporting only, or by the data alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from morel_tf import algorithm
from morel_tf.experiment.configs import Configs
from morel_tf.experiment.restore import controller_of
from offline_tf.evaluation import policy_episodes
from offline_tf.numerics.rank_statistics import rank_correlation
from offline_tf.numerics.returns import with_interval
from offline_tf.pipeline.run import Experiment
from offline_tf.policies import fitted_value
from offline_tf.policies.gaussian import NumpyPolicy
from offline_tf.run_folder.record import RunRecord
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, Transitions

_FQE_DISCOUNT = 0.97  # nearer to 1, errors of the fit feed on themselves
_ROWS_ASKED = 4096
_LEAST_PAIRS = 4
_LAST_PART = 0.9  # of the iterations: measured five times as often


def while_planning(
    experiment: Experiment[Configs],
) -> Callable[[NumpyPolicy, int], dict[str, float]]:
    """Returns (policy, iteration) -> true returns, for the log; no numbers without a simulator."""
    configs, task, _, _, _, _, threads = experiment
    run, last = configs.run, configs.planner.iterations

    def evaluate(policy: NumpyPolicy, iteration: int) -> dict[str, float]:
        near_the_end = iteration > _LAST_PART * last
        every = max(run.eval_every // 5, 1) if near_the_end else run.eval_every
        if iteration % every and iteration != last:
            return {}
        numbers: dict[str, float] = {}
        for kind in ("mean", "stochastic"):
            episodes = policy_episodes.evaluate(
                policy,
                task=task,
                physics=run.physics,
                episodes=run.eval_episodes,
                stochastic=kind == "stochastic",
                seed=run.seed,
                name=f"planning/{iteration}",
                threads=threads,
            )
            numbers |= with_interval(f"true_return_{kind}", episodes.returns)
        return numbers

    return evaluate if task.simulation else lambda policy, iteration: {}


def evaluate_final(
    experiment: Experiment[Configs], learned: algorithm.Learned, stage: Stage
) -> dict[str, Any]:
    """Measures the final policy and behaviour cloning in the real simulator.

    Without a simulator: what the data alone say of the policy; see `judge_offline`.

    Args:
      experiment: the run.
      learned: what it has learned.
      stage: of the evaluation; its seconds begin anew after the fit of Q, a stage of its own.
    """
    if experiment.task.simulation is None:
        return judge_offline(experiment, learned, stage)
    configs, task, data, _, _, _, threads = experiment
    run = configs.run

    def measure(policy: NumpyPolicy, name: str, stochastic: bool, **where: Any) -> Any:
        return policy_episodes.evaluate(
            policy,
            task=task,
            physics=run.physics,
            episodes=run.final_episodes,
            stochastic=stochastic,
            seed=run.seed,
            name=f"final/{name}",
            threads=threads,
            **where,
        )

    policy = learned.policy.numpy()
    mean, sampled = measure(policy, "policy", False), measure(policy, "policy", True)
    as_in_the_pmdp = measure(
        policy, "horizon", True, horizon=configs.pmdp.horizon, starts=_start_states(data)
    )
    cloned = measure(learned.cloned, "cloning", False)
    promised: dict[str, float] = {}
    if configs.judge.judge_members:
        on_its_terms = measure(policy, "promise", False, starts=_start_states(data))
        promised = {"true_return_as_promised": on_its_terms.mean}
    return {
        "real_environment": True,
        "true_return_at_horizon": as_in_the_pmdp.mean,
        **promised,
        "true_return_mean": mean.mean,
        "true_return_std": mean.std,
        "true_return_stochastic": sampled.mean,
        "episode_length": float(mean.lengths.mean()),
        "bc_return": cloned.mean,
        "episodes": run.final_episodes,
    }


def judge_offline(
    experiment: Experiment[Configs], learned: algorithm.Learned, stage: Stage
) -> dict[str, Any]:
    """The policy's fitted value, and the share of its actions that the detector knows.

    Args:
      experiment: the run.
      learned: what it has learned.
      stage: of the evaluation.
    """
    value = fitted_value.fit_or_load(
        learned.policy.numpy(),
        task=experiment.task,
        data=experiment.data,
        discount=_FQE_DISCOUNT,
        seed=experiment.configs.run.seed,
        stage=experiment.record.stage("fqe"),
    )
    stage.restart()
    return {"real_environment": False, "known_share": _known_share(experiment, learned), **value}


def _start_states(data: Transitions) -> tuple[Array, Array] | None:
    """Physical states at the data's episode starts, where the data has them."""
    if data.qpos is None or data.qvel is None:
        return None
    first = data.episode_bounds()[:, 0]
    return data.qpos[first], data.qvel[first]


def _known_share(experiment: Experiment[Configs], learned: algorithm.Learned) -> float:
    """Share of rows of the data where the detector knows the policy's mean action."""
    data = experiment.data
    rows = np.linspace(0, len(data) - 1, num=min(len(data), _ROWS_ASKED)).astype(np.int64)
    controller = controller_of(experiment.task, learned, experiment.configs.knobs)
    states = tf.constant(data.observations[rows])
    known = controller.is_known(states, controller.act(states)["action"])["known"]
    return float(tf.reduce_mean(tf.cast(known, tf.float32)))


def late_returns(record: RunRecord, iterations: int) -> dict[str, float]:
    """Means over the evaluations in the last tenth of the iterations, the least of the last half."""
    path = record.folder / "metrics" / "planning.evaluation.csv"
    if not path.exists():
        return {}
    rows = np.genfromtxt(path, delimiter=",", names=True, ndmin=1)
    late = rows[rows["step"] > _LAST_PART * iterations]
    second_half = rows[rows["step"] >= 0.5 * iterations]
    if not len(late):  # the judge ended planning between two evaluations
        late = second_half = rows[-1:]
    return {
        "true_return_last_tenth": float(late["true_return_mean"].mean()),
        "true_return_stochastic_last_tenth": float(late["true_return_stochastic"].mean()),
        "true_return_least_in_second_half": float(second_half["true_return_mean"].min()),
    }


def promise_correlation(record: RunRecord) -> dict[str, float]:
    """Rank correlation of the judge's promise with the true return while planning went on.

    Each evaluation is paired with the promise of the last look before it. Empty with less than four
    evaluations, or without a judge.
    """
    folder = record.folder / "metrics"
    if not (folder / "planning.judge.csv").exists():
        return {}
    if not (folder / "planning.evaluation.csv").exists():
        return {}
    looks, rows = (
        np.genfromtxt(folder / f"planning.{name}.csv", delimiter=",", names=True, ndmin=1)
        for name in ("judge", "evaluation")
    )
    if len(rows) < _LEAST_PAIRS:
        return {}
    last = np.searchsorted(looks["step"], rows["step"], side="right") - 1
    correlation = rank_correlation(looks["promise"][last], rows["true_return_mean"])
    return {"promise_rank_correlation": correlation}
