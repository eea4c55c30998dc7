"""python -m mopp_tf.evaluate --workdir=RUN: plans in the simulator with a finished run's models."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import logging

from flags import schema
from mopp_tf.control_config import ControlConfig
from offline_tf import tasks
from offline_tf.config import shared_knobs
from offline_tf.config.knobs import check, knob
from offline_tf.types import TaskSpec, UserError

if TYPE_CHECKING:
    from mopp_tf.experiment.configs import Configs
    from offline_tf.run_folder.record import RunRecord

USAGE = """
usage: python -m mopp_tf.evaluate --workdir=RUN [--episodes=N] [--reward=MODULE:FUNCTION]
                                  [--constraint=MODULE:FUNCTION --constraint_arg=X] [flags]

Plans with the models of a finished run, nothing retrained; another reward and constraints may be given.
Examples: --reward=mopp_tf.objectives:jump --reward_mode=replace,
--constraint=mopp_tf.objectives:speed_limit --constraint_arg=5 (HalfCheetah).
"""


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation."""

    workdir: str = shared_knobs.run_folder_knob()
    episodes: int = knob(20, "Episodes, in one batch.", low=1)
    seed: int = knob(1000, "Random seed of start states and proposals.", low=0)
    physics: str = shared_knobs.other_physics_knob()
    simulator: str = shared_knobs.other_simulator_knob()
    watch: tuple[str, ...] = knob((), "Names of observations to keep per step.")
    output: str = knob("", "Name of the report; empty: RUN/evaluation.json and .npz.")
    engine: str = knob(
        "tensorflow",
        "What computes decisions: tensorflow, litert (what planner.tflite computes, converted anew; "
        "one environment after the other), or litert-int8.",
        choices=("tensorflow", "litert", "litert-int8"),
    )
    threads: int = shared_knobs.threads_knob()
    compile: str = shared_knobs.compile_knob()

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        shared_knobs.check_run_folder(self.workdir)


def main(config_: EvaluateConfig, control: ControlConfig) -> None:
    """Prints and writes the report and, per step, the traces."""
    import numpy as np  # here, so that --help needs no TensorFlow

    from mopp_tf.experiment import evaluation, export_planner, restore
    from offline_tf.evaluation import planner_episodes
    from offline_tf.models import compilation
    from offline_tf.run_folder.files import write_json
    from offline_tf.tasks import environments

    threads = compilation.use_threads(config_.threads)
    compilation.use_compiler(config_.compile)
    record, configs, task, physics, stem = _checked(config_, control)
    planner = restore.make_planner(
        task, configs=configs, learned=restore.load(configs, task, record), control=control
    )
    stage = record.stage("evaluate")

    def progress(done: int) -> None:
        stage.progress(done, task.max_episode_steps, "steps")

    options: dict[str, Any] = {
        "seed": config_.seed,
        "name": "evaluate",
        "watched": config_.watch,
        "threads": threads,
        "progress": progress,
    }
    episodes = config_.episodes
    if config_.engine == "tensorflow":
        graph = compilation.compiled(planner.decide)
        result = evaluation.evaluate_planner(
            planner, graph=graph, physics=physics, episodes=episodes, **options
        )
    else:
        decider = export_planner.LiteDecider(
            export_planner.check_lite(planner), config_.engine == "litert-int8", threads
        )
        result = planner_episodes.run(
            task, physics=physics, episodes=episodes, start=decider.start, decide=decider, **options
        )
    report = {
        "env": task.name,
        "physics": environments.physics_of(task, physics),
        "seed": config_.seed,
        "episodes": config_.episodes,
        "engine": config_.engine,
        **dataclasses.asdict(control),
        **evaluation.describe(result),
    }
    report["normalized_score"] = task.normalized_score(report["true_return_mean"])
    path = pathlib.Path(f"{stem}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, report)
    observed = {
        f"observation/{k}" if k in result.traces else k: v for k, v in result.observed.items()
    }
    np.savez_compressed(f"{stem}.npz", **(result.traces | observed))  # type: ignore[arg-type]
    logging.info(
        "return %.1f +- %.1f over %d episodes, mean length %.0f, kept %.0f %%; %s",
        report["true_return_mean"],
        report["true_return_std"],
        config_.episodes,
        report["episode_length"],
        100 * report["kept_share"],
        path,
    )


def _check_watched(names: Sequence[str], task: TaskSpec) -> None:
    unknown = sorted(set(names) - set(task.observation_names))
    if unknown:
        raise UserError(
            f"--watch: expected names among {', '.join(task.observation_names)}, got {unknown[0]!r}"
        )


class _Checked(NamedTuple):
    """A run that can be measured, and where.

    Attributes:
      record, configs: of the run.
      task, physics: to measure in; the task with what the run has learned of it.
      stem: of the files to be written, without their endings.
    """

    record: RunRecord
    configs: Configs
    task: TaskSpec
    physics: str
    stem: str


def _checked(config_: EvaluateConfig, control: ControlConfig) -> _Checked:
    """Checks all that can be checked before the models are loaded.

    Raises:
      UserError: the run is not finished, a file cannot be written, the task cannot be simulated, or the
        planner is asked for what it cannot do.
    """
    from mopp_tf import algorithm
    from mopp_tf.experiment import export_planner, restore
    from mopp_tf.experiment.configs import from_manifest
    from offline_tf.models import learned_task
    from offline_tf.run_folder import files
    from offline_tf.run_folder.record import RunRecord
    from offline_tf.tasks import environments

    record = RunRecord.open_existing(pathlib.Path(config_.workdir))
    # Only .json is taken for an ending: names such as limit=0.5 hold dots.
    stem = config_.output.removesuffix(".json") or str(record.folder / "evaluation")
    files.check_writable(pathlib.Path(f"{stem}.json"), "output" if config_.output else "workdir")
    configs = from_manifest(record.manifest)
    task = tasks.get(configs.run.env, config_.simulator or configs.run.simulator)
    physics = config_.physics or configs.run.physics
    environments.check_simulated(task, physics)
    _check_watched(config_.watch, task)
    of_mopp = configs.run.algorithm == "mopp"
    if config_.engine != "tensorflow" and not of_mopp:
        raise UserError(export_planner.NO_LITE_OF_MBOP)
    record.check_complete("dynamics", "behavior", "q")
    task = learned_task.of_run(task, configs.run.seed, record)
    restore.settings_of(
        task,
        configs=configs,
        trained=algorithm.chosen_planner(configs.knobs, record) if of_mopp else configs.planner,
        scale=algorithm.load_units(record).scale,
        control=control,
    )
    return _Checked(record, configs, task, physics, stem)


def plan(config_: EvaluateConfig, control: ControlConfig) -> list[str]:
    """What --dry_run prints; the time is taken from the run's own evaluation."""
    record, configs, task, _, _ = _checked(config_, control)
    lines = [f"{config_.episodes} episodes with the models of {record.folder}, nothing retrained"]
    usual = ControlConfig()
    lines += [
        f"  --{name}={','.join(value) if isinstance(value, tuple) else value}"
        for name, value in vars(control).items()
        if value != getattr(usual, name)
    ]
    stage = record.stage("evaluation")
    if stage.complete and "decision_ms_median" in stage.result:
        share = config_.episodes / configs.run.eval_episodes
        minutes = share * stage.result["decision_ms_median"] * task.max_episode_steps / 6e4
        lines.append(f"  about {minutes + 0.3:.1f} min")
    return lines


if __name__ == "__main__":
    schema.run(main, configs=[EvaluateConfig, ControlConfig], usage=USAGE, plan=plan)
