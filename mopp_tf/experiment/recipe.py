"""A whole MOPP run, from flags to summary; the binaries and the tests call it."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from mopp_tf import algorithm, config, objectives
from mopp_tf.experiment import export_planner, inspection
from mopp_tf.mbop import learning, mbop_planner
from mopp_tf.models import training
from mopp_tf.planning.decision import Decision
from mopp_tf.planning.planner import Planner
from offline_tf import tasks
from offline_tf.config.knobs import rebuild
from offline_tf.datasets import sources
from offline_tf.evaluation import planner_episodes
from offline_tf.models import compilation, learned_task, networks
from offline_tf.numerics import seeds
from offline_tf.pipeline import opening
from offline_tf.policies import fitted_value
from offline_tf.reports import tensorboard
from offline_tf.reports.tensorboard import Chart
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.record import RunRecord
from offline_tf.run_folder.stage import Stage
from offline_tf.tasks import environments
from offline_tf.types import TaskSpec, Tensor, Transitions, UserError

# Flags that may differ when a run is continued: they do not decide the result.
FREE_FLAGS = ("workdir", "data_dir", "threads", "inspection")
_ONCE_SHARED = ("horizon", "inverse_temperature")
_FITS = ("dynamics", "behavior", "q")
AnyLearned = algorithm.Learned | learning.MbopLearned
_MODEL_STAGES: tuple[Any, ...] = (
    config.ModelConfig,
    config.DynamicsConfig,
    config.BehaviorConfig,
    config.QConfig,
)


CHARTS = (
    Chart("MOPP", "Share of candidates kept", (r"^evaluation/kept_share$",)),
    Chart("MOPP", "Share of decisions where too few were kept", (r"^evaluation/fallback$",)),
    Chart("MOPP", "Entropy of the weights (nats)", (r"^evaluation/weight_entropy$",)),
    Chart("MOPP", "Effective sample size", (r"^evaluation/effective_sample_size$",)),
    Chart("MOPP", "A decision for all episodes (ms)", (r"^evaluation/decision_ms$",)),
    Chart("MOPP", "Reward, and share of episodes alive", (r"^evaluation/(reward|alive)$",)),
    *(
        Chart("Models", title, (f"^{stage}/(loss|held_out|training_rows)$",))
        for title, stage in (
            ("Dynamics: loss and held-out loss", "dynamics_fit"),
            ("Behaviour: loss and held-out loss", "behavior_fit"),
            ("Q: loss and held-out error", "q_fit"),
        )
    ),
    Chart("Models", "Q: mean, and gap between the twins", (r"^q_fit/(mean|gap)$",)),
)


class Configs(NamedTuple):
    """The dataclasses of config.STAGES, in their order."""

    run: config.RunConfig
    model: config.ModelConfig
    dynamics: config.DynamicsConfig
    behavior: config.BehaviorConfig
    q: config.QConfig
    planner: config.PlannerConfig
    mbop: config.MbopConfig

    @property
    def knobs(self) -> algorithm.Knobs:
        """Those of learning, and of the algorithm's planner."""
        planner = self.planner
        if self.run.algorithm == "mbop":
            planner = config.for_mbop(planner, self.mbop)
        return algorithm.Knobs(self.model, self.dynamics, self.behavior, self.q, planner)

    def flat(self) -> dict[str, Any]:
        """All flags by name."""
        return {k: v for part in self for k, v in dataclasses.asdict(part).items()}


def from_manifest(manifest: dict[str, Any]) -> Configs:
    """Rebuilds the configuration of a run from its folder."""
    flags = manifest["flags"]
    older = {"latent_dim": 0}  # older runs knew no others; their MBOP planned as MOPP did
    if flags.get("algorithm") == "mbop":
        older |= {f"mbop_{name}": flags[name] for name in _ONCE_SHARED if name in flags}
    return Configs(*(rebuild(cls, older | flags) for cls in config.STAGES))


def flags_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """A run's flags by name, with what those younger than the run mean to it."""
    return from_manifest(manifest).flat()


def default_workdir(run: config.RunConfig) -> pathlib.Path:
    """Where a run goes without --workdir."""
    data = pathlib.Path(run.dataset).stem.replace(":", "-")
    env = tasks.short_name(run.env)
    return pathlib.Path("runs") / f"{run.algorithm}-{env}-{data}-{run.preset}-seed{run.seed}"


def folder_of(run: config.RunConfig) -> pathlib.Path:
    """The run's folder."""
    return pathlib.Path(run.workdir) if run.workdir else default_workdir(run)


def load_data(run: config.RunConfig, task: TaskSpec, threads: int) -> tuple[Transitions, str]:
    """Loads --dataset: a file, or data made here under one of its names."""
    return sources.load_named(
        run.dataset, task, run.physics, run.data_steps, run.seed, run.data_dir, threads
    )


def _models_from(configs: Configs, data_hash: str) -> RunRecord | None:
    """Opens --models_from and checks that its models were fitted as this run would."""
    if not configs.run.models_from:
        return None
    other = RunRecord.open_existing(pathlib.Path(configs.run.models_from), "models_from")
    there = from_manifest(other.manifest)
    old, new = there.flat(), configs.flat()
    q_again = fits_q_again(configs, there)
    taken = [name for name in _FITS if not (q_again and name == "q")]
    problems = [
        f"--{f.name} is {old[f.name]!r} there"
        for stage in _MODEL_STAGES
        for f in dataclasses.fields(stage)
        if old[f.name] != new[f.name] and not (q_again and stage is config.QConfig)
    ]
    if other.manifest["algorithm"] != configs.run.algorithm:
        problems.append(f"--algorithm is {other.manifest['algorithm']!r} there")
    elif configs.run.algorithm == "mbop" and old["mbop_horizon"] != new["mbop_horizon"]:
        problems.append(f"--mbop_horizon, of the value network, is {old['mbop_horizon']} there")
    if other.manifest.get("data_hash") != data_hash:
        problems.append("its data differs")
    if changed := other.task_changes(tasks.get(configs.run.env, configs.run.simulator)):
        problems.append(f"its task has other {', '.join(changed)}")
    if not all(other.stage(name).complete for name in taken):
        problems.append("its models are not fitted yet")
    if problems:
        raise UserError(f"--models_from: {other.folder} does not fit ({'; '.join(problems)})")
    return other


def fits_q_again(configs: Configs, other: Configs) -> bool:
    """Whether --models_from takes all but Q over: MOPP's Q has other knobs, and no other fit needs it.

    Args:
      configs: of this run.
      other: of the run that --models_from names.
    """
    return configs.run.algorithm == "mopp" and configs.q != other.q


def _may_begin(configs: Configs, data: Transitions, data_hash: str) -> RunRecord | None:
    """Checks what flags and data have to do with each other; opens --models_from."""
    other = _models_from(configs, data_hash)
    if other is None:
        knobs = configs.knobs
        split = algorithm.split_of(data, knobs, configs.run.seed)
        if configs.run.algorithm == "mbop":
            split = learning.rows_with_value(data, split, knobs.planner.horizon)
        training.check_patience(knobs.model, split)
    return other


def check(configs: Configs) -> None:
    """Checks, before anything is read, what flags have to do with each other.

    Raises:
      UserError: they do not go together.
    """
    count, orders = configs.dynamics.dynamics_members, configs.dynamics.dynamics_orders
    if configs.run.algorithm == "mopp" and count < 2 and configs.planner.prune:
        raise UserError(
            "--dynamics_members: expected 2 or more, as one model disagrees with nobody; or give "
            "--noprune"
        )
    if orders and len(orders) != count:
        raise UserError(
            f"--dynamics_orders: expected {count} numbers, as --dynamics_members says, got "
            f"{len(orders)}"
        )


def run(configs: Configs) -> dict[str, Any]:
    """Runs, or continues, a whole MOPP run.

    Args:
      configs: all knobs.

    Returns:
      The summary, as in summary.json.

    Raises:
      UserError: bad input; the run folder is as before.
    """
    check(configs)
    run_config = configs.run
    threads = compilation.use_threads(run_config.threads)
    compiler = compilation.use_compiler(run_config.compile)
    task = tasks.get(run_config.env, run_config.simulator)
    folder = folder_of(run_config)
    if run_config.models_from:  # before any data are made
        RunRecord.open_existing(pathlib.Path(run_config.models_from), "models_from")
    opened = opening.open_run(
        folder,
        run_config.algorithm,
        configs.flat(),
        FREE_FLAGS,
        task,
        lambda: load_data(run_config, task, threads),
        lambda data, data_hash: _may_begin(configs, data, data_hash),
        flags_of,
    )
    record, data, other = opened.record, opened.data, opened.checked
    dtype = networks.product_dtype(configs.model.precision).name
    q_again = other is not None and fits_q_again(configs, from_manifest(other.manifest))
    # Where all fits are complete another CPU may have made them.
    if not all(record.stage(name).complete for name in _FITS):
        if other:
            record.note_commit(other)
            record.note_also(training_dtype=other.manifest.get("training_dtype"))
        if other is None or q_again:
            record.note_also(training_dtype=dtype)
    if not record.stage("evaluation").complete:
        record.note_also(compiler=compiler)
    logging.info("%s", compilation.in_words(threads, dtype))
    tensorboard.show_charts(record, CHARTS)
    # The dynamics models learn the reward.
    task = learned_task.complete(task, data, run_config.seed, record, reward=False)
    prepared = algorithm.prepare(task, data, configs.knobs, run_config.seed, record, other)
    learned: AnyLearned
    if run_config.algorithm == "mopp":
        q_from = None if q_again else other
        learned = algorithm.learn(
            task, prepared, configs.knobs, run_config.seed, record, other, q_from
        )
    else:
        learned = learning.learn(task, prepared, configs.knobs, run_config.seed, record, other)
    planner = make_planner(task, configs, learned)
    decide = compilation.compiled(planner.decide)
    measured = evaluate_final(configs, task, data, planner, decide, learned, record, threads)
    rows = np.linspace(0, len(data) - 1, num=min(len(data), 64)).astype(np.int64)
    exported = record.folder / "export"
    stage = record.stage("export")
    if not stage.complete:
        error = export_planner.export_and_verify(
            planner, prepared.scale, exported, data.observations[rows]
        )
        write_json(exported / "manifest.json", record.manifest)
        stage.finish({"largest_difference": error})
    stage = record.stage("inspection")
    if run_config.inspection and not stage.complete:
        stage.finish(
            inspection.inspect(
                task,
                data,
                prepared,
                learned,
                planner,
                decide,
                run_config.eval_episodes,
                run_config.seed,
                record,
            )
        )
    return summarize(configs, task, opened.dataset, measured, str(exported), record)


def load(configs: Configs, task: TaskSpec, record: RunRecord) -> AnyLearned:
    """Rebuilds what a run has fitted from its folder alone.

    Raises:
      UserError: the run is not finished.
    """
    record.check_task(task)
    reader = algorithm.load if configs.run.algorithm == "mopp" else learning.load
    return reader(task, configs.knobs, record)


def make_planner(
    task: TaskSpec,
    configs: Configs,
    learned: AnyLearned,
    control: config.ControlConfig | None = None,
    reward: objectives.UserFunction | None = None,
    constraint: objectives.UserFunction | None = None,
) -> export_planner.AnyPlanner:
    """Builds the planner of a run, with another objective where `control` or functions say so.

    Raises:
      UserError: see `objectives.make` and `config.changed_planner`; or another limit is asked for by
        a quantile, which only the data could tell, or another horizon of MBOP's value.
    """
    control = control or config.ControlConfig()
    knobs, of_mbop = config.changed_planner(
        configs.planner, configs.mbop, control.planner, configs.run.algorithm
    )
    dtype = networks.product_dtype(knobs.planner_precision)
    scale = learned.scale if isinstance(learned, algorithm.Learned) else learned.prepared.scale
    objective = objectives.make(task, scale, control, reward, constraint)
    if isinstance(learned, learning.MbopLearned):
        fitted = configs.mbop.mbop_horizon
        if of_mbop.mbop_horizon != fitted and knobs.terminal_value:
            raise UserError(
                f"--planner: the value beyond the horizon was fitted for mbop_horizon={fitted}, got "
                f"{of_mbop.mbop_horizon}; give terminal_value=false as well, or train with it"
            )
        knobs = config.for_mbop(knobs, of_mbop)
        return mbop_planner.MbopPlanner(task, learned, knobs, of_mbop, objective, dtype)
    limit = _changed_limit(configs.planner, knobs) or learned.limit
    return Planner(task, learned.models, knobs, limit, objective, dtype)


def _changed_limit(trained: config.PlannerConfig, now: config.PlannerConfig) -> float | None:
    """L where the planner's knobs ask for another one than was set after the fits."""
    names = ("uncertainty_quantile", "uncertainty_units", "uncertainty_limit")
    changed = [name for name in names if getattr(trained, name) != getattr(now, name)]
    # A fixed L in other units, or beside another quantile, would go on as if nothing had been said.
    if changed and (not now.uncertainty_limit or "uncertainty_limit" not in changed):
        raise UserError(
            f"--planner: {changed[0]} decides about L, which is set when the models are fitted; give "
            "another uncertainty_limit=L as well"
        )
    return now.uncertainty_limit if changed else None


def export_again(
    record: RunRecord, folder: pathlib.Path, control: config.ControlConfig, lite: bool = False
) -> tuple[float, dict[str, float]]:
    """Exports a finished run to another folder, without its data.

    Args:
      record: of the run.
      folder: of the export.
      control: another objective.
      lite: whether to write LiteRT files too, where the planner is MOPP's.

    Returns:
      The largest difference from the live planner, and those of LiteRT; see `deploy`.
    """
    configs = from_manifest(record.manifest)
    task = learned_task.of_run(tasks.get(configs.run.env), configs.run.seed, record)
    planner = make_planner(task, configs, load(configs, task, record), control)
    units = algorithm.load_units(record)
    states = units.normalizer.states
    spread = seeds.generator(configs.run.seed, "export").standard_normal((64, task.state_dim))
    samples = (states.shift + states.scale * spread).astype(np.float32)
    error = export_planner.export_and_verify(planner, units.scale, folder, samples)
    differences: dict[str, float] = {}
    if lite and isinstance(planner, Planner):
        differences = export_planner.write_lite(planner, folder, samples)
    write_json(folder / "manifest.json", record.manifest | {"control": dataclasses.asdict(control)})
    return error, differences


def inspect_again(
    record: RunRecord, others: Sequence[str], data_dir: str, threads: int
) -> dict[str, float]:
    """Looks at the models and candidates of a finished run again.

    Args:
      record: of the run.
      others: data sets whose pairs are compared with the held-out ones; see `sources.load_named`.
      data_dir: folder of data that is made.
      threads: of simulators that make data.

    Raises:
      UserError: the models are not fitted yet, or the data are not what they were.
    """
    stage = record.stage("inspection")
    configs = from_manifest(record.manifest)
    run_config = dataclasses.replace(configs.run, data_dir=data_dir or configs.run.data_dir)
    task = tasks.get(run_config.env, run_config.simulator)
    task = learned_task.of_run(task, run_config.seed, record)
    learned = load(configs, task, record)
    data, _ = load_data(run_config, task, threads)
    opening.check_same(record, data)
    prepared = algorithm.prepare(task, data, configs.knobs, run_config.seed, record, record)
    planner = make_planner(task, configs, learned)
    numbers = inspection.inspect(
        task,
        data,
        prepared,
        learned,
        planner,
        compilation.function(planner.decide),
        inspection.DECISIONS,
        run_config.seed,
        record,
        sources.pairs_of(
            others,
            task,
            run_config.physics,
            run_config.data_steps,
            run_config.seed,
            run_config.data_dir,
            threads,
        ),
    )
    if record.stage("evaluation").complete:  # else the run itself will look once more
        seconds = record.results()["inspection"]["seconds"] if stage.complete else None
        stage.finish(numbers, seconds)
    return numbers


def evaluate_planner(
    planner: export_planner.AnyPlanner,
    graph: Callable[[Tensor, Tensor, Tensor], Decision],
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
      physics, episodes, seed, name, watched, threads, progress: see `simulation.run`.
    """

    def decide(observation: Tensor, plan: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Any]:
        found = graph(observation, plan, key)
        numbers = {
            "kept_share": found.kept_share,
            "fallback": tf.cast(found.fallback, tf.float32),
            "effective_sample_size": found.effective_sample_size,
            "weight_entropy": found.weight_entropy,
            "return_spread": found.return_spread,
            "disagreement": tf.reduce_mean(found.disagreement, axis=1),
            "expected_return": found.expected_return,
        }
        return found.action, found.plan, numbers

    start = compilation.function(planner.initial_plan)
    nowhere = tf.zeros([episodes, planner.task.state_dim])
    graph(nowhere, start(nowhere), tf.constant([0, 0]))  # traced now, so that no decision is
    return planner_episodes.run(
        planner.task, physics, episodes, start, decide, seed, name, watched, threads, progress
    )


def clone_decider(task: TaskSpec, learned: algorithm.Learned) -> planner_episodes.Decide:
    """ADM behaviour cloning: the mean of the behaviour members' modes, nothing planned.

    Differs: the authors act by the mode of one member drawn at random.
    """
    behavior = learned.models.behavior
    middle = 0.5 * (task.action_high + task.action_low)
    half = 0.5 * (task.action_high - task.action_low)

    @compilation.function
    def act(observation: Tensor) -> Tensor:
        inputs = behavior.inputs(observation)
        modes = tf.stack([m.mode(inputs) for m in behavior.densities()])
        return middle + half * tf.reduce_mean(modes, axis=0)

    def decide(observation: Tensor, memory: Any, key: Tensor) -> tuple[Tensor, Any, Any]:
        del key
        return act(observation), memory, {}

    return decide


def judge_offline(
    planner: export_planner.AnyPlanner,
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
    starts = starts[np.linspace(0, len(starts) - 1, min(len(starts), 256)).astype(np.int64)]
    rows = np.linspace(0, len(data) - 1, min(len(data), 256)).astype(np.int64)

    @compilation.function
    def decide(observation: Tensor, key: Tensor) -> Any:
        return planner.decide(observation, planner.initial_plan(observation), key)

    found = decide(tf.constant(data.observations[rows]), seeds.stateless(seed, "offline", 0))
    scale = learned.scale if isinstance(learned, algorithm.Learned) else learned.prepared.scale
    report = {
        "kept_share": float(tf.reduce_mean(found.kept_share)),
        "fallback": float(tf.reduce_mean(tf.cast(found.fallback, tf.float32))),
        "effective_sample_size": float(tf.reduce_mean(found.effective_sample_size)),
        "expected_return": scale.scale * float(tf.reduce_mean(found.expected_return)),
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
    configs: Configs,
    task: TaskSpec,
    data: Transitions,
    planner: export_planner.AnyPlanner,
    decide: Callable[[Tensor, Tensor, Tensor], Decision],
    learned: AnyLearned,
    record: RunRecord,
    threads: int,
) -> dict[str, Any]:
    """Measures planner and, for MOPP, ADM behaviour cloning in the real simulator.

    Without a simulator, says what models and data promise instead; see `judge_offline`.
    """
    stage = record.stage("evaluation")
    if stage.complete:
        return stage.result
    stage.restart()
    dtype = networks.product_dtype(configs.planner.planner_precision).name
    if task.simulation is None:
        offline = judge_offline(planner, learned, data, configs.q.discount, configs.run.seed)
        return stage.finish({"real_environment": False, "planner_dtype": dtype, **offline})
    episodes, limit = configs.run.eval_episodes, task.max_episode_steps
    cloning: dict[str, float] = {}
    if isinstance(learned, algorithm.Learned):
        cloned = planner_episodes.run(
            task,
            configs.run.physics,
            episodes,
            lambda _: None,
            clone_decider(task, learned),
            configs.run.seed,
            "cloning",
            threads=threads,
        ).returns
        cloning = {"bc_return": float(cloned.mean()), "bc_return_std": _std(cloned)}
    found = evaluate_planner(
        planner,
        decide,
        configs.run.physics,
        episodes,
        configs.run.seed,
        "planner",
        watched=task.observation_names,
        threads=threads,
        progress=lambda done: stage.progress(done, limit, "steps"),
    )
    trace(found, task, record, stage)
    return stage.finish(
        {
            "real_environment": True,
            **cloning,
            **describe(found),
            "planner_dtype": dtype,
            "episodes": episodes,
        }
    )


_TRACED = ("kept_share", "fallback", "effective_sample_size", "weight_entropy", "disagreement")
_PATHS = 4


def trace(
    found: planner_episodes.Rollouts, task: TaskSpec, record: RunRecord, stage: Stage
) -> None:
    """Logs what the planner did, step by step, mean over the episodes that still run.

    A few episodes' observations are kept for the inspector's map.
    """
    alive = ~np.isnan(found.traces["reward"])
    for step in range(0, len(alive), max(len(alive) // 200, 1)):
        numbers = {name: float(np.nanmean(found.traces[name][step])) for name in _TRACED}
        numbers["decision_ms"] = float(found.decision_ms[step])
        numbers["reward"] = float(np.nanmean(found.traces["reward"][step]))
        numbers["alive"] = float(alive[step].mean())
        stage.log(step + 1, numbers)
    stage.histograms(
        0,
        {
            "return": found.returns,
            "length": found.lengths,
            "decision_ms": found.decision_ms,
            **{name: found.traces[name][alive] for name in _TRACED},
        },
    )
    paths = np.stack([found.observed[n][:, :_PATHS] for n in task.observation_names], axis=-1)
    record.arrays("episodes", {"observations": paths.swapaxes(0, 1).astype(np.float32)})


def _std(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def describe(found: planner_episodes.Rollouts) -> dict[str, float]:
    """The numbers of a summary that a batch of planned episodes yields."""
    names = ("kept_share", "fallback", "effective_sample_size", "return_spread", "disagreement")
    return {
        "true_return_mean": float(found.returns.mean()),
        "true_return_std": _std(found.returns),
        "episode_length": float(found.lengths.mean()),
        "decision_ms_median": float(np.median(found.decision_ms)),
        **{name: float(np.nanmean(found.traces[name])) for name in names if name in found.traces},
    }


def summarize(
    configs: Configs,
    task: TaskSpec,
    dataset_name: str,
    measured: dict[str, Any],
    exported: str,
    record: RunRecord,
) -> dict[str, Any]:
    """Writes summary.json and says in words what happened."""
    results = record.results()
    stages = {name: entry["seconds"] for name, entry in results.items()}
    value = measured.get("true_return_mean")
    summary = {
        "algorithm": configs.run.algorithm,
        "env": task.name,
        "dataset": dataset_name,
        "physics": environments.physics_of(task, configs.run.physics),
        "preset": configs.run.preset,
        "variant": variant(configs),
        "seed": configs.run.seed,
        "commit": record.commits,
        "command": provenance.command(FREE_FLAGS),
        "horizon": configs.knobs.planner.horizon,
        "training_dtype": record.manifest.get("training_dtype"),
        "behavior_return": record.manifest["behavior_return"],
        **{k: v for k, v in measured.items() if k != "real_environment"},
        "normalized_score": None if value is None else task.normalized_score(value),
        **_fit_numbers(results),
        **learned_task.errors(record),
        "wall_seconds": round(sum(stages.values()), 1),
        "stages": stages,
        "export": exported,
    }
    write_json(record.folder / "summary.json", summary)
    flags = {name: value for name, value in configs.flat().items() if name not in FREE_FLAGS}
    tensorboard.show_run(record, flags, tensorboard.results(summary))
    logging.info("%s", in_words(summary))
    return summary


def variant(configs: Configs) -> str:
    """What sets a run apart from the plain algorithm under the default preset, for tables."""
    preset = configs.run.preset
    if configs.run.algorithm == "mbop":  # it knows none of the others
        plain, own = (dataclasses.asdict(part) for part in (config.MbopConfig(), configs.mbop))
        changed = [f"{name[5:]} {own[name]:g}" for name in own if own[name] != plain[name]]
        return ", ".join([preset] * (preset != "default") + changed)
    hidden, usual = configs.model.mlp_hidden, config.ModelConfig().mlp_hidden
    sizes = "" if hidden == usual else " " + "-".join(map(str, hidden))
    parts = {
        preset: preset != "default",
        "no pruning": not configs.planner.prune,
        "no max-Q": not configs.planner.max_q,
        f"MLP{sizes}": configs.model.network == "mlp",
        "mode conditioning": preset == "default" and configs.model.conditioning == "mode",
    }
    return ", ".join(name for name, applies in parts.items() if applies)


def _fit_numbers(results: dict[str, Any]) -> dict[str, Any]:
    """Numbers of the fits, on the rows that "judged_rows" names, and the pruning limit."""
    wanted = (
        ("limit", "limit", "uncertainty_limit"),
        ("dynamics", "nll", "dynamics_nll"),
        ("dynamics", "mse", "dynamics_mse"),
        ("dynamics", "judged", "judged_rows"),
        ("behavior", "nll", "behavior_nll"),
        ("behavior", "mse", "behavior_mse"),
        ("q", "gap", "q_gap"),
        ("q", "mse", "value_mse"),
    )
    return {
        name: results[stage]["result"][key]
        for stage, key, name in wanted
        if stage in results and key in results[stage]["result"]
    }


def in_words(summary: dict[str, Any]) -> str:
    """The summary as a person would say it."""
    lines = [
        f"{summary['algorithm']} on {summary['dataset']} ({summary['physics']} physics), "
        f"seed {summary['seed']}, {summary['wall_seconds']:.0f} s:",
        f"  behaviour data       {summary['behavior_return']:10.1f}",
    ]
    if summary.get("true_return_mean") is None:
        lines += [
            "  nothing was run in a real environment: the task declares no simulator",
            f"  planned ahead from rows of the data: return {summary['expected_return']:.2f}, kept "
            f"{100 * summary['kept_share']:.0f} % of the candidates, fallback in "
            f"{100 * summary['fallback']:.0f} % of the decisions",
        ]
        if "fqe_value" in summary:
            lines.append(
                f"  value of the behaviour at starts of episodes: fitted {summary['fqe_value']:.2f}, "
                f"in the data {summary['data_value']:.2f} (discounted)"
            )
    else:
        lines += [
            *(
                [f"  behaviour model      {summary['bc_return']:10.1f}"]
                if "bc_return" in summary
                else []
            ),
            f"  planner              {summary['true_return_mean']:10.1f} "
            f"+- {summary['true_return_std']:.1f} over {summary['episodes']} episodes",
            f"  kept {100 * summary['kept_share']:.0f} % of the candidates, effective sample size "
            f"{summary['effective_sample_size']:.0f}, fallback in {100 * summary['fallback']:.0f} % "
            f"of the decisions",
            f"  a decision for all episodes at once took {summary['decision_ms_median']:.0f} ms",
        ]
    lines.append(f"  export: {summary['export']}")
    return "\n".join(lines)
