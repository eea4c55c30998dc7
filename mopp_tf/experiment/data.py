"""What a MOPP run learns from: a data set, and models of another run."""

from __future__ import annotations

from mopp_tf import algorithm, config
from mopp_tf.experiment.configs import Configs, check, fits_q_again, from_manifest
from mopp_tf.mbop.learning import rows_with_value
from mopp_tf.models import training
from offline_tf import tasks
from offline_tf.datasets import sources
from offline_tf.datasets.names import KINDS, Reading
from offline_tf.datasets.quality import checks
from offline_tf.judging import judge
from offline_tf.pipeline import reuse
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import TaskSpec, Transitions

FITS = ("dynamics", "behavior", "q")
_MODEL_STAGES = (
    config.ModelConfig,
    config.DynamicsConfig,
    config.BehaviorConfig,
    config.QConfig,
)


def check_flags(configs: Configs) -> None:
    """Checks, before any data are read or made, flags and that --models_from names a run.

    Raises:
      UserError: they do not go together, or there is no run.
    """
    check(configs)
    reuse.open_run(configs.run.models_from, "models_from")


def load_data(configs: Configs, task: TaskSpec, threads: int) -> tuple[Transitions, str]:
    """Loads --dataset: a file, or data made here under one of its names."""
    run = configs.run
    data, name = sources.load_named(
        run.dataset,
        task=task,
        physics=run.physics,
        steps=run.data_steps,
        seed=run.seed,
        data_dir=run.data_dir,
        threads=threads,
        reading=Reading(run.columns, run.observation_keys),
    )
    # The judge's models see the velocities; those that somebody else recorded may be of other states.
    return data if run.dataset in KINDS else checks.with_own_states(data, task), name


def reused_run(configs: Configs, data: Transitions, data_hash: str) -> RunRecord | None:
    """Opens --models_from; a run that fits its own models needs rows to judge them by.

    Raises:
      UserError: the other run's models were not fitted as this run would, or rows are missing.
    """
    judge.check_episodes(configs.judge, data)
    task = tasks.get(configs.run.env, configs.run.simulator)
    other = reuse.open_run(configs.run.models_from, "models_from")
    if other is None:
        _check_rows(configs, task, data)
        return None
    q_again = fits_q_again(configs, from_manifest(other.manifest))
    reuse.check_fits(
        other,
        flag="models_from",
        differences=_differences(configs, other),
        data_hash=data_hash,
        task=task,
        fits=[name for name in FITS if not (q_again and name == "q")],
    )
    return other


def _check_rows(configs: Configs, task: TaskSpec, data: Transitions) -> None:
    knobs = configs.knobs
    split = algorithm.split_of(task, data, knobs, configs.run.seed)
    training.check_patience(knobs.model, split.where(data.next_known))  # the dynamics models'
    if configs.run.algorithm == "mbop":
        split = rows_with_value(data, split, knobs.planner.horizon)
    training.check_patience(knobs.model, split)


def _differences(configs: Configs, other: RunRecord) -> list[str]:
    """What the other run's algorithm and models do not share with this one's, in words."""
    theirs = from_manifest(other.manifest)
    q_again = fits_q_again(configs, theirs)
    ours_of, theirs_of = ({type(part): part for part in c} for c in (configs, theirs))
    differences = [
        difference
        for stage in _MODEL_STAGES
        if not (q_again and stage is config.QConfig)
        for difference in reuse.different_knobs(theirs_of[stage], ours_of[stage])
    ]
    horizon = theirs.mbop.mbop_horizon
    if other.manifest["algorithm"] != configs.run.algorithm:
        differences.append(f"--algorithm is {other.manifest['algorithm']!r} there")
    elif configs.run.algorithm == "mbop" and horizon != configs.mbop.mbop_horizon:
        differences.append(f"--mbop_horizon, of the value network, is {horizon} there")
    return differences
