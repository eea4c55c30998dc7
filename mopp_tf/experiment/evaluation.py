"""What a MOPP run measures: in the real simulator, for reporting only, or by models and data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mopp_tf import algorithm
from mopp_tf.experiment.configs import Configs
from mopp_tf.experiment.export_planner import AnyPlanner
from mopp_tf.experiment.restore import AnyLearned, reward_scale_of
from mopp_tf.models.behavior import BehaviorModel
from mopp_tf.planning.decision import Decision
from mopp_tf.planning.planner import Planner
from offline_tf.evaluation import planner_episodes
from offline_tf.models import compilation, networks
from offline_tf.numerics import seeds
from offline_tf.pipeline.run import Experiment
from offline_tf.policies import fitted_value
from offline_tf.run_folder.record import RunRecord
from offline_tf.run_folder.stage import Stage
from offline_tf.types import TaskSpec, Tensor, Transitions

Graph = Callable[[Tensor, Tensor, Tensor], Decision]
_TRACED = ("kept_share", "fallback", "effective_sample_size", "weight_entropy", "disagreement")
_PATHS = 4
_LOGGED_STEPS = 200
_JUDGED = 256


def evaluate_planner(
    planner: AnyPlanner,
    *,
    graph: Graph,
    physics: str,
    episodes: int,
    seed: int,
    name: str,
    watched: tuple[str, ...] = (),
    threads: int = 2,
    progress: Any = None,
) -> planner_episodes.Rollouts:
    """Runs the planner in the real simulator.

    Args:
      planner: decides.
      graph: its `decide` as a tf.function.
      physics, episodes, seed, name, watched, threads, progress: see `planner_episodes.run`.
    """

    def decide(observation: Tensor, plan: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Any]:
        decision = graph(observation, plan, key)
        numbers = {
            "kept_share": decision.kept_share,
            "fallback": tf.cast(decision.fallback, tf.float32),
            "effective_sample_size": decision.effective_sample_size,
            "weight_entropy": decision.weight_entropy,
            "return_spread": decision.return_spread,
            "disagreement": tf.reduce_mean(decision.disagreement, axis=1),
            "expected_return": decision.expected_return,
        }
        return decision.action, decision.plan, numbers

    start = compilation.function(planner.initial_plan)
    nowhere = tf.zeros([episodes, planner.task.state_dim])
    graph(nowhere, start(nowhere), tf.constant([0, 0]))  # traced now, so that no decision is
    return planner_episodes.run(
        planner.task,
        physics=physics,
        episodes=episodes,
        start=start,
        decide=decide,
        seed=seed,
        name=name,
        watched=watched,
        threads=threads,
        progress=progress,
    )


def clone_decider(task: TaskSpec, behavior: BehaviorModel) -> planner_episodes.Decide:
    """ADM behaviour cloning: nothing planned; see `BehaviorModel.clone`."""
    clone = behavior.clone()
    middle = 0.5 * (task.action_high + task.action_low)
    half = 0.5 * (task.action_high - task.action_low)

    @compilation.function
    def act(observation: Tensor) -> Tensor:
        return middle + half * clone(observation)

    def decide(observation: Tensor, memory: Any, key: Tensor) -> tuple[Tensor, Any, Any]:
        del key
        return act(observation), memory, {}

    return decide


def judge_offline(
    planner: AnyPlanner,
    learned: AnyLearned,
    data: Transitions,
    discount: float,
    seed: int,
) -> dict[str, float]:
    """What models and data say of a planner that no simulator can judge.

    Args:
      planner: to be judged.
      learned: its models.
      data: what it was learned from; up to 256 rows and 256 starts of episodes are looked at.
      discount: of the values.
      seed: of the planner.

    Returns:
      On rows of the data, for the first decision of an episode: "kept_share", "fallback",
      "expected_return" (planned rewards and value). For MOPP, on starts of episodes: "fqe_value", the
      fitted value of the behaviour, and "data_value", the discounted return that followed. All in
      the data's units, less the shift of --reward_scaling=minmax.
    """
    starts = data.episode_bounds()
    starts = starts[np.linspace(0, len(starts) - 1, min(len(starts), _JUDGED)).astype(np.int64)]
    rows = np.linspace(0, len(data) - 1, min(len(data), _JUDGED)).astype(np.int64)

    @compilation.function
    def decide(observation: Tensor, key: Tensor) -> Any:
        return planner.decide(observation, planner.initial_plan(observation), key)

    decision = decide(tf.constant(data.observations[rows]), seeds.stateless(seed, "offline", 0))
    scale = reward_scale_of(learned)
    report = {
        "kept_share": float(tf.reduce_mean(decision.kept_share)),
        "fallback": float(tf.reduce_mean(tf.cast(decision.fallback, tf.float32))),
        "effective_sample_size": float(tf.reduce_mean(decision.effective_sample_size)),
        "expected_return": scale.scale * float(tf.reduce_mean(decision.expected_return)),
    }
    if not isinstance(planner, Planner):
        return report
    values = planner.behavior_value(
        tf.constant(data.observations[starts[:, 0]]), seeds.stateless(seed, "offline", 1)
    )
    return report | {
        "fqe_value": scale.scale * float(tf.reduce_mean(values)),
        "data_value": fitted_value.discounted_returns(data, starts, discount, scale.shift),
    }


def evaluate_final(
    experiment: Experiment[Configs],
    learned: AnyLearned,
    planner: AnyPlanner,
    decide: Graph,
    stage: Stage,
) -> dict[str, Any]:
    """Measures planner and, for MOPP, ADM behaviour cloning in the real simulator.

    Without a simulator, says what models and data promise instead; see `judge_offline`.

    Args:
      experiment: the run.
      learned: what it has learned.
      planner: decides.
      decide: its `decide` as a graph.
      stage: of the evaluation.
    """
    stage.restart()
    configs, task, data, _, record, _, threads = experiment
    run, limit = configs.run, task.max_episode_steps
    dtype = networks.product_dtype(configs.planner.planner_precision).name
    if task.simulation is None:
        promised = judge_offline(planner, learned, data, configs.q.discount, run.seed)
        return {"real_environment": False, "planner_dtype": dtype, **promised}
    cloned: dict[str, float] = {}
    if isinstance(learned, algorithm.Learned):
        returns = planner_episodes.run(
            task,
            physics=run.physics,
            episodes=run.eval_episodes,
            start=lambda _: None,
            decide=clone_decider(task, learned.models.behavior),
            seed=run.seed,
            name="cloning",
            threads=threads,
        ).returns
        cloned = {"bc_return": float(returns.mean()), "bc_return_std": _std(returns)}
    rollouts = evaluate_planner(
        planner,
        graph=decide,
        physics=run.physics,
        episodes=run.eval_episodes,
        seed=run.seed,
        name="planner",
        watched=task.observation_names,
        threads=threads,
        progress=lambda done: stage.progress(done, limit, "steps"),
    )
    log_steps(rollouts, stage)
    keep_paths(rollouts, task, record)
    return {
        "real_environment": True,
        **cloned,
        **describe(rollouts),
        "planner_dtype": dtype,
        "episodes": run.eval_episodes,
    }


def log_steps(rollouts: planner_episodes.Rollouts, stage: Stage) -> None:
    """Logs what the planner did, step by step, mean over the episodes that still run."""
    alive = ~np.isnan(rollouts.traces["reward"])
    for step in range(0, len(alive), max(len(alive) // _LOGGED_STEPS, 1)):
        numbers = {name: float(np.nanmean(rollouts.traces[name][step])) for name in _TRACED}
        numbers["decision_ms"] = float(rollouts.decision_ms[step])
        numbers["reward"] = float(np.nanmean(rollouts.traces["reward"][step]))
        numbers["alive"] = float(alive[step].mean())
        stage.log(step + 1, numbers)
    stage.histograms(
        0,
        {
            "return": rollouts.returns,
            "length": rollouts.lengths,
            "decision_ms": rollouts.decision_ms,
            **{name: rollouts.traces[name][alive] for name in _TRACED},
        },
    )


def keep_paths(rollouts: planner_episodes.Rollouts, task: TaskSpec, record: RunRecord) -> None:
    """Keeps a few episodes' observations for the inspection's map."""
    columns = [rollouts.observed[name][:, :_PATHS] for name in task.observation_names]
    paths = np.stack(columns, axis=-1)
    record.arrays("episodes", {"observations": paths.swapaxes(0, 1).astype(np.float32)})


def _std(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def describe(rollouts: planner_episodes.Rollouts) -> dict[str, float]:
    """The numbers of a summary that a batch of planned episodes yields."""
    names = ("kept_share", "fallback", "effective_sample_size", "return_spread", "disagreement")
    return {
        "true_return_mean": float(rollouts.returns.mean()),
        "true_return_std": _std(rollouts.returns),
        "episode_length": float(rollouts.lengths.mean()),
        "decision_ms_median": float(np.median(rollouts.decision_ms)),
        **{
            name: float(np.nanmean(rollouts.traces[name]))
            for name in names
            if name in rollouts.traces
        },
    }
