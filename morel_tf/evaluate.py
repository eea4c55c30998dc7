"""python -m morel_tf.evaluate --workdir=RUN: measures a run's policy in the real simulator."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, NamedTuple

from absl import logging

from flags import schema
from offline_tf import tasks
from offline_tf.config import shared_knobs
from offline_tf.config.knobs import check, knob
from offline_tf.types import TaskSpec

if TYPE_CHECKING:
    from morel_tf.experiment.configs import Configs
    from offline_tf.run_folder.record import RunRecord

USAGE = """
usage: python -m morel_tf.evaluate --workdir=RUN [--episodes=N] [--seed=N] [--physics=v4]

Rebuilds the policy of a finished run from its folder and runs it in the simulator.
"""
_STEPS_PER_SECOND = 20_000.0  # two cores, a robot of Hopper's size


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation."""

    workdir: str = shared_knobs.run_folder_knob()
    episodes: int = knob(100, "Episodes per kind of action.", low=1)
    seed: int = knob(1000, "Random seed of start states and actions.", low=0)
    physics: str = shared_knobs.other_physics_knob()
    simulator: str = shared_knobs.other_simulator_knob()
    threads: int = shared_knobs.threads_knob()

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        shared_knobs.check_run_folder(self.workdir)


def main(config: EvaluateConfig) -> None:
    """Prints and writes RUN/evaluation.json."""
    from morel_tf.experiment import restore  # here, so that --help needs no TensorFlow
    from offline_tf.evaluation import policy_episodes
    from offline_tf.models import compilation
    from offline_tf.run_folder.files import write_json
    from offline_tf.tasks import environments

    threads = compilation.use_threads(config.threads)
    run = _checked(config)
    task, physics, path = run.task, run.physics, run.report
    policy = restore.load_policy(run.configs, run.record).numpy()
    report: dict[str, object] = {
        "env": task.name,
        "physics": environments.physics_of(task, physics),
        "seed": config.seed,
    }
    for kind in ("mean", "stochastic"):
        evaluation = policy_episodes.evaluate(
            policy,
            task=task,
            physics=physics,
            episodes=config.episodes,
            stochastic=kind == "stochastic",
            seed=config.seed,
            name="evaluate",
            threads=threads,
        )
        report |= {f"return_{kind}": evaluation.mean, f"return_{kind}_std": evaluation.std}
        logging.info(
            "%s action: return %.1f +- %.1f over %d episodes, mean length %.0f",
            kind,
            evaluation.mean,
            evaluation.std,
            config.episodes,
            evaluation.lengths.mean(),
        )
    write_json(path, report)


class _Checked(NamedTuple):
    """A run that can be measured, and where.

    Attributes:
      record, configs: of the run.
      task, physics: to measure in.
      report: the file to be written.
    """

    record: RunRecord
    configs: Configs
    task: TaskSpec
    physics: str
    report: pathlib.Path


def _checked(config: EvaluateConfig) -> _Checked:
    """Checks all that can be checked before the policy is loaded.

    Raises:
      UserError: the run is not finished, its folder takes no files, or its task cannot be simulated.
    """
    from morel_tf.experiment.configs import from_manifest
    from offline_tf.run_folder import files
    from offline_tf.run_folder.record import RunRecord
    from offline_tf.tasks import environments

    record = RunRecord.open_existing(pathlib.Path(config.workdir))
    path = record.folder / "evaluation.json"
    files.check_writable(path, "workdir")
    record.check_complete("planning")
    configs = from_manifest(record.manifest)
    task = tasks.get(configs.run.env, config.simulator or configs.run.simulator)
    physics = config.physics or configs.run.physics
    environments.check_simulated(task, physics)
    return _Checked(record, configs, task, physics, path)


def plan(config: EvaluateConfig) -> list[str]:
    """What --dry_run prints."""
    run = _checked(config)
    steps = 2 * config.episodes * run.task.max_episode_steps
    return [
        f"{config.episodes} episodes by the mean action of {run.record.folder}, as many by draws",
        f"  at most {steps:,} steps, about {steps / _STEPS_PER_SECOND / 60 + 0.1:.1f} min",
        f"  to {run.report}",
    ]


if __name__ == "__main__":
    schema.run(main, configs=[EvaluateConfig], usage=USAGE, plan=plan)
