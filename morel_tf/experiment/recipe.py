"""A whole MOReL run, from flags to summary; the binaries and the tests call it."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from morel_tf import algorithm, config
from morel_tf.experiment import export_controller, inspection, panels
from morel_tf.models import dynamics, usad
from morel_tf.planning import npg_planner, pessimistic_mdp
from offline_tf import tasks
from offline_tf.config.knobs import rebuild
from offline_tf.datasets import sources
from offline_tf.datasets.names import KINDS
from offline_tf.datasets.quality import checks
from offline_tf.datasets.simulated import generated
from offline_tf.evaluation import policy_episodes
from offline_tf.models import compilation, learned_task, networks
from offline_tf.numerics import seeds
from offline_tf.numerics.returns import with_interval
from offline_tf.pipeline import opening
from offline_tf.policies import cloning, fitted_value
from offline_tf.policies.gaussian import GaussianPolicy, NumpyPolicy
from offline_tf.reports import report_layout, tensorboard
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.record import RunRecord
from offline_tf.tasks import environments
from offline_tf.types import Array, TaskSpec, Transitions, UserError

# Flags that may differ when a run is continued: they do not decide the result.
FREE_FLAGS = ("workdir", "data_dir", "threads", "inspection")
_FQE_DISCOUNT = 0.97  # nearer to 1, errors of the fit feed on themselves


class Configs(NamedTuple):
    """The dataclasses of config.STAGES, in their order."""

    run: config.RunConfig
    dynamics: config.DynamicsConfig
    usad: config.UsadConfig
    pmdp: config.PmdpConfig
    cloning: config.CloningConfig
    planner: config.PlannerConfig

    @property
    def knobs(self) -> algorithm.Knobs:
        """Without the run's."""
        return algorithm.Knobs(*self[1:])

    def flat(self) -> dict[str, Any]:
        """All flags by name."""
        return {k: v for part in self for k, v in dataclasses.asdict(part).items()}


def from_manifest(manifest: dict[str, Any]) -> Configs:
    """Rebuilds the configuration of a run from its folder."""
    flags = {"policy_units": "raw"} | manifest["flags"]  # older runs knew no others
    return Configs(*(rebuild(cls, flags) for cls in config.STAGES))


def flags_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """A run's flags by name, with what those younger than the run mean to it."""
    return from_manifest(manifest).flat()


def algorithm_name(configs: Configs) -> str:
    """As in summaries: MOReL, or what it is without a detector."""
    return "naive_mbrl" if configs.usad.threshold_rule == "none" else "morel"


def default_workdir(configs: Configs) -> pathlib.Path:
    """Where a run goes without --workdir: other data, or no detector, have a folder of their own."""
    run = configs.run
    data = pathlib.Path(run.dataset).stem.replace(":", "-") or (
        "" if run.exploration == "pure" else run.exploration
    )
    named = [
        algorithm_name(configs),
        tasks.short_name(run.env),
        data,
        run.preset,
        f"seed{run.seed}",
    ]
    return pathlib.Path("runs") / "-".join(part for part in named if part)


def folder_of(configs: Configs) -> pathlib.Path:
    """The run's folder."""
    return pathlib.Path(configs.run.workdir) if configs.run.workdir else default_workdir(configs)


def load_data(run: config.RunConfig, task: TaskSpec, threads: int) -> tuple[Transitions, str]:
    """Loads --dataset, or the data that this run makes for itself; returns it with its name."""
    if run.dataset:
        data, name = sources.load_named(
            run.dataset, task, run.physics, run.data_steps, run.seed, run.data_dir, threads
        )
        ours = run.dataset in KINDS
        return data if ours else checks.with_own_states(data, task), name
    return generated.load_or_make(
        task, run.physics, run.exploration, run.data_steps, run.seed, run.data_dir, threads
    )


def _other_dynamics(configs: Configs, data_hash: str) -> RunRecord | None:
    """Opens --dynamics_from and checks that its models were fitted as this run would."""
    if not configs.run.dynamics_from:
        return None
    other = RunRecord.open_existing(pathlib.Path(configs.run.dynamics_from), "dynamics_from")
    theirs = from_manifest(other.manifest)
    problems = [
        f"--{f.name} is {getattr(theirs.dynamics, f.name)!r} there"
        for f in dataclasses.fields(configs.dynamics)
        if getattr(theirs.dynamics, f.name) != getattr(configs.dynamics, f.name)
    ]
    if other.manifest["algorithm"] != "morel":
        problems = [f"its algorithm is {other.manifest['algorithm']}"]
    if other.manifest.get("data_hash") != data_hash:
        problems.append("its data differs")
    if changed := other.task_changes(tasks.get(configs.run.env, configs.run.simulator)):
        problems.append(f"its task has other {', '.join(changed)}")
    if not other.stage("dynamics").complete:
        problems.append("its models are not fitted yet")
    if problems:
        raise UserError(f"--dynamics_from: {other.folder} does not fit ({'; '.join(problems)})")
    return other


def check(configs: Configs) -> None:
    """Checks, before anything is read, what flags have to do with each other.

    Raises:
      UserError: they do not go together.
    """
    if configs.dynamics.ensemble_size < 2 and configs.usad.threshold_rule != "none":
        raise UserError(
            "--ensemble_size: expected 2 models or more, as one disagrees with nobody; or give "
            "--threshold_rule=none (naive model-based RL)"
        )
    configs.planner.check_noise()


def run(configs: Configs) -> dict[str, Any]:
    """Runs, or continues, a whole MOReL run.

    Args:
      configs: all knobs.

    Returns:
      The summary, as in summary.json.

    Raises:
      UserError: bad input; the run folder is as before.
    """
    run_config = configs.run
    check(configs)
    threads = compilation.use_threads(run_config.threads)
    compiler = compilation.use_compiler(run_config.compile)
    task = tasks.get(run_config.env, run_config.simulator)
    folder = folder_of(configs)
    opened = opening.open_run(
        folder,
        "morel",
        configs.flat(),
        FREE_FLAGS,
        task,
        lambda: load_data(run_config, task, threads),
        lambda _, data_hash: _other_dynamics(configs, data_hash),
        flags_of,
    )
    record, data, other = opened.record, opened.data, opened.checked
    dtype = networks.product_dtype(configs.dynamics.precision).name
    record.note(least_reward=float(data.rewards.min()))
    if not record.stage("dynamics").complete:  # else another CPU may have fitted them
        if other:
            record.note_commit(other)
        fitted = other.manifest.get("training_dtype") if other else dtype
        record.note_also(training_dtype=fitted)
    if not record.stage("planning").complete:
        record.note_also(compiler=compiler)
    logging.info("%s", compilation.in_words(threads, dtype))
    tensorboard.show_charts(record, panels.CHARTS)
    report_layout.write(record.folder, panels.LAYOUT)
    task = learned_task.complete(task, data, run_config.seed, record)
    if configs.pmdp.horizon > task.max_episode_steps:
        logging.info("paths end with the task's time limit, after %d steps", task.max_episode_steps)
        shorter = dataclasses.replace(configs.pmdp, horizon=task.max_episode_steps)
        configs = configs._replace(pmdp=shorter)

    def log_evaluation(policy: NumpyPolicy, iteration: int) -> dict[str, float]:
        last_tenth = iteration > 0.9 * configs.planner.iterations
        every = max(run_config.eval_every // 5, 1) if last_tenth else run_config.eval_every
        if iteration % every and iteration != configs.planner.iterations:
            return {}
        numbers: dict[str, float] = {}
        for kind in ("mean", "stochastic"):
            found = policy_episodes.evaluate(
                policy,
                task,
                run_config.physics,
                run_config.eval_episodes,
                kind == "stochastic",
                run_config.seed,
                f"planning/{iteration}",
                threads=threads,
            )
            numbers |= with_interval(f"true_return_{kind}", found.returns)
        return numbers

    prepared = algorithm.prepare(task, data, configs.knobs, run_config.seed, other)
    learned = algorithm.morel(
        task,
        run_config.physics,
        data,
        prepared,
        configs.knobs,
        run_config.seed,
        record,
        log_evaluation if task.simulation else lambda policy, iteration: {},
        inspection.path_keeper(record, configs.planner.iterations),
        other,
    )
    measured = evaluate_final(configs, task, data, learned, record, threads)
    exported = export_run(task, data, learned, configs.knobs, record)
    stage = record.stage("inspection")
    if run_config.inspection and not stage.complete:
        detector = learned.calibrations["planning"]
        seen = inspection.view(task, learned.ensemble, learned.weights, detector)
        stage.finish(inspection.inspect(task, data, prepared, seen, run_config.seed, record))
    return summarize(configs, task, opened.dataset, learned, measured, exported, record)


def _start_states(task: TaskSpec, data: Transitions) -> tuple[Array, Array] | None:
    """Physical states at the data's episode starts, where the data has them."""
    if data.qpos is None or data.qvel is None:
        return None
    first = data.episode_bounds()[:, 0]
    return data.qpos[first], data.qvel[first]


def _controller(
    task: TaskSpec, learned: algorithm.Learned, knobs: algorithm.Knobs
) -> export_controller.Controller:
    """What is exported; behaviour cloning is the fallback."""
    return export_controller.Controller(
        task,
        learned.policy,
        learned.ensemble,
        learned.weights,
        learned.calibrations,
        export_controller.fallback_of(task, "cloning", learned.cloned),
        learned.pmdp,
        knobs.dynamics.velocities == "restored",
    )


def _known_share(
    task: TaskSpec, data: Transitions, learned: algorithm.Learned, knobs: algorithm.Knobs
) -> float:
    """Share of up to 4096 rows of the data where the detector knows the policy's mean action."""
    rows = np.linspace(0, len(data) - 1, num=min(len(data), 4096)).astype(np.int64)
    controller = _controller(task, learned, knobs)
    states = tf.constant(data.observations[rows])
    known = controller.is_known(states, controller.act(states)["action"])["known"]
    return float(tf.reduce_mean(tf.cast(known, tf.float32)))


def evaluate_final(
    configs: Configs,
    task: TaskSpec,
    data: Transitions,
    learned: algorithm.Learned,
    record: RunRecord,
    threads: int,
) -> dict[str, Any]:
    """Measures the final policy and behaviour cloning in the real simulator."""
    stage = record.stage("evaluation")
    if stage.complete:
        return stage.result
    if task.simulation is None:
        value = fitted_value.fit_or_load(
            learned.policy.numpy(), task, data, _FQE_DISCOUNT, configs.run.seed, record.stage("fqe")
        )
        known = _known_share(task, data, learned, configs.knobs)
        stage = record.stage("evaluation")  # its seconds begin here
        return stage.finish({"real_environment": False, "known_share": known, **value})
    run_config = configs.run

    def measure(policy: NumpyPolicy, name: str, stochastic: bool, **where: Any) -> Any:
        return policy_episodes.evaluate(
            policy,
            task,
            run_config.physics,
            run_config.final_episodes,
            stochastic,
            run_config.seed,
            f"final/{name}",
            threads=threads,
            **where,
        )

    policy = learned.policy.numpy()
    mean, sampled = measure(policy, "policy", False), measure(policy, "policy", True)
    same_terms = measure(
        policy, "horizon", True, horizon=configs.pmdp.horizon, starts=_start_states(task, data)
    )
    cloned = measure(learned.cloned, "cloning", False)
    return stage.finish(
        {
            "real_environment": True,
            "true_return_at_horizon": same_terms.mean,
            "true_return_mean": mean.mean,
            "true_return_std": mean.std,
            "true_return_stochastic": sampled.mean,
            "episode_length": float(mean.lengths.mean()),
            "bc_return": cloned.mean,
            "episodes": run_config.final_episodes,
        }
    )


def export_run(
    task: TaskSpec,
    data: Transitions,
    learned: algorithm.Learned,
    knobs: algorithm.Knobs,
    record: RunRecord,
) -> str:
    """Writes and verifies the SavedModel; returns its folder."""
    folder = record.folder / "export"
    stage = record.stage("export")
    if stage.complete:
        return str(folder)
    controller = _controller(task, learned, knobs)
    rows = np.linspace(0, len(data) - 1, num=min(len(data), 256)).astype(np.int64)
    error = export_controller.export_and_verify(
        controller, folder, data.observations[rows], data.actions[rows]
    )
    write_json(folder / "manifest.json", record.manifest)
    stage.finish({"largest_difference": error})
    return str(folder)


def inspect_again(
    record: RunRecord, others: Sequence[str], data_dir: str, threads: int
) -> dict[str, float]:
    """Looks at the models of a finished run again.

    Args:
      record: of the run.
      others: data sets whose pairs are compared with the held-out ones; see `sources.load_named`.
      data_dir: folder of data that is made.
      threads: of simulators that make data.

    Raises:
      UserError: the detector is not calibrated yet, or the data are not what they were.
    """
    stage = record.stage("inspection")
    configs = from_manifest(record.manifest)
    run_config = dataclasses.replace(configs.run, data_dir=data_dir or configs.run.data_dir)
    task = tasks.get(run_config.env, run_config.simulator)
    record.check_task(task)
    if not record.stage("usad").complete:
        raise UserError(f"--workdir: the run in {record.folder} has no detector yet; continue it")
    data, _ = load_data(run_config, task, threads)
    opening.check_same(record, data)
    prepared = algorithm.prepare(task, data, configs.knobs, run_config.seed, record)
    ensemble = dynamics.load(task, configs.dynamics, run_config.seed, record)
    weights = usad.space_weights(task, ensemble, configs.usad.disagreement_space)
    seen = inspection.view(task, ensemble, weights, usad.load(record)["planning"])

    def states_of(found: Transitions) -> Array:
        own = checks.with_own_states(found, task)
        return algorithm.prepare(task, own, configs.knobs, run_config.seed).states

    pairs = sources.pairs_of(
        others,
        task,
        run_config.physics,
        run_config.data_steps,
        run_config.seed,
        run_config.data_dir,
        threads,
        states_of,
    )
    numbers = inspection.inspect(task, data, prepared, seen, run_config.seed, record, pairs)
    if record.stage("evaluation").complete:  # else the run itself will look once more
        seconds = record.results()["inspection"]["seconds"] if stage.complete else None
        stage.finish(numbers, seconds)
    return numbers


def _new_policy(task: TaskSpec, configs: Configs, record: RunRecord) -> GaussianPolicy:
    record.check_task(task)
    inputs, _ = dynamics.fitted_statistics(record)
    units = npg_planner.units_of(task, configs.planner, inputs)
    return npg_planner.new_policy(units, configs.planner, configs.run.seed)


def load_cloned(configs: Configs, task: TaskSpec, record: RunRecord) -> GaussianPolicy:
    """Rebuilds the behaviour-cloned policy of a finished run from its folder."""
    cloned = _new_policy(task, configs, record)
    cloning.load(cloned, record.stage("behavior_cloning"))
    return cloned


def load_policy(configs: Configs, record: RunRecord) -> GaussianPolicy:
    """Rebuilds a run's planned policy from its folder.

    Raises:
      UserError: planning is not finished.
    """
    stage = record.stage("planning")
    if not stage.complete:
        raise UserError(f"--workdir: the run in {record.folder} is not finished; continue it first")
    task = tasks.get(configs.run.env)
    policy = _new_policy(task, configs, record)
    baseline = npg_planner.new_baseline(policy.units, configs.planner, 0)
    stage.track([*policy.weights, *baseline.state])
    stage.restore()
    return policy


def load_controller(record: RunRecord, fallback: str = "cloning") -> export_controller.Controller:
    """Rebuilds what a finished run hands over from its folder alone.

    Args:
      record: of the run.
      fallback: see `deploy.fallback_of`.

    Raises:
      UserError: the run is not finished, or there is no such fallback.
    """
    configs = from_manifest(record.manifest)
    task = learned_task.of_run(tasks.get(configs.run.env), configs.run.seed, record)
    policy = load_policy(configs, record)
    cloned = load_cloned(configs, task, record)
    ensemble = dynamics.load(task, configs.dynamics, configs.run.seed, record)
    weights = usad.space_weights(task, ensemble, configs.usad.disagreement_space)
    calibrations = usad.load(record)
    pmdp = None
    if "least_reward" in record.manifest:  # runs of older versions have none
        pmdp = pessimistic_mdp.make(
            task,
            configs.run.physics,
            ensemble,
            weights,
            calibrations["planning"].threshold,
            record.manifest["least_reward"],
            configs.pmdp,
        )
    safe = export_controller.fallback_of(task, fallback, cloned.numpy())
    restored = configs.dynamics.velocities == "restored"
    return export_controller.Controller(
        task, policy, ensemble, weights, calibrations, safe, pmdp, restored
    )


def export_again(
    record: RunRecord, folder: pathlib.Path, fallback: str = "cloning", lite: bool = False
) -> float:
    """Exports a finished run to another folder, without its data.

    Args:
      record: of the run.
      folder: of the SavedModel.
      fallback: see `deploy.fallback_of`.
      lite: whether to write LiteRT files too.

    Returns:
      The largest difference; see `deploy.export_and_verify`.
    """
    controller = load_controller(record, fallback)
    configs = from_manifest(record.manifest)
    task = tasks.get(configs.run.env)
    inputs = controller.ensemble.inputs
    draws = seeds.generator(configs.run.seed, "export")
    spread = draws.standard_normal((256, task.state_dim + task.action_dim))
    samples = (inputs.shift + inputs.scale * spread).astype(np.float32)
    states, actions = np.split(samples, [task.state_dim], axis=1)
    error = export_controller.export_and_verify(
        controller, folder, states, task.clip_actions(actions), lite
    )
    write_json(folder / "manifest.json", record.manifest | {"fallback": fallback})
    return error


def last_tenth(record: RunRecord, iterations: int) -> dict[str, float]:
    """Means over the evaluations in the last tenth of the iterations."""
    path = record.folder / "metrics" / "planning.evaluation.csv"
    if not path.exists():
        return {}
    rows = np.genfromtxt(path, delimiter=",", names=True, ndmin=1)
    late = rows[rows["step"] > 0.9 * iterations]
    second_half = rows[rows["step"] >= 0.5 * iterations]
    return {
        "true_return_last_tenth": float(late["true_return_mean"].mean()),
        "true_return_stochastic_last_tenth": float(late["true_return_stochastic"].mean()),
        "true_return_least_in_second_half": float(second_half["true_return_mean"].min()),
    }


def summarize(
    configs: Configs,
    task: TaskSpec,
    dataset_name: str,
    learned: algorithm.Learned,
    measured: dict[str, Any],
    exported: str,
    record: RunRecord,
) -> dict[str, Any]:
    """Writes summary.json and says in words what happened."""
    stages = {name: entry["seconds"] for name, entry in record.results().items()}
    value = measured.get("true_return_mean")
    returns = record.manifest["behavior_return"]
    summary = {
        "algorithm": algorithm_name(configs),
        "env": task.name,
        "dataset": dataset_name,
        "physics": environments.physics_of(task, configs.run.physics),
        "preset": configs.run.preset,
        "seed": configs.run.seed,
        "commit": record.commits,
        "command": provenance.command(FREE_FLAGS),
        "iterations": configs.planner.iterations,
        "horizon": configs.pmdp.horizon,
        "training_dtype": record.manifest.get("training_dtype"),
        "behavior_return": returns,
        "bc_return": measured.get("bc_return"),
        "pmdp_return": learned.pmdp_return,
        **{k: v for k, v in measured.items() if k not in ("bc_return", "real_environment")},
        **last_tenth(record, configs.planner.iterations),
        "normalized_score": None if value is None else task.normalized_score(value),
        "threshold": learned.calibrations["planning"].threshold,
        **learned_task.errors(record),
        "wall_seconds": round(sum(stages.values()), 1),
        "stages": stages,
        "export": exported,
    }
    write_json(record.folder / "summary.json", summary)
    flags = {name: value for name, value in configs.flat().items() if name not in FREE_FLAGS}
    tensorboard.show_run(record, flags, report_layout.numbers_of(panels.LAYOUT, summary))
    logging.info("%s", in_words(summary))
    return summary


def in_words(summary: dict[str, Any]) -> str:
    """The summary as a person would say it."""
    lines = [
        f"{summary['algorithm']} on {summary['dataset']} ({summary['physics']} physics), "
        f"seed {summary['seed']}, {summary['wall_seconds']:.0f} s:",
        f"  behaviour policy     {summary['behavior_return']:10.1f}",
    ]
    if summary.get("true_return_mean") is None:
        lines += [
            "  nothing was run in a real environment: the task declares no simulator",
            f"  over {summary['horizon']} steps the P-MDP promises {summary['pmdp_return']:.1f}",
            f"  the detector knows {100 * summary['known_share']:.0f} % of the policy's actions in "
            "states of the data",
        ]
        if "fqe_value" in summary:
            lines.append(
                f"  fitted Q evaluation values it at {summary['fqe_value']:.2f} (twins "
                f"{summary['fqe_gap']:.2f} apart; discount {summary['fqe_discount']}; beyond time "
                f"limits too); up to its end, an episode brought {summary['data_value']:.2f}"
            )
    else:
        lines += [
            f"  behaviour cloning    {summary['bc_return']:10.1f}",
            f"  policy, mean action  {summary['true_return_mean']:10.1f} "
            f"+- {summary['true_return_std']:.1f} over {summary['episodes']} episodes",
            f"  policy, stochastic   {summary['true_return_stochastic']:10.1f}",
            f"  over {summary['horizon']} steps: P-MDP {summary['pmdp_return']:.1f}, "
            f"true {summary['true_return_at_horizon']:.1f}",
        ]
    lines.append(f"  export: {summary['export']}")
    return "\n".join(lines)
