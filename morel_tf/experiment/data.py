"""What a MOReL run learns from: a data set, and models of another run."""

from __future__ import annotations

from morel_tf.experiment.configs import Configs, check, from_manifest
from offline_tf import tasks
from offline_tf.datasets import sources
from offline_tf.datasets.names import KINDS, Reading
from offline_tf.datasets.quality import checks
from offline_tf.datasets.simulated import generated
from offline_tf.judging import judge
from offline_tf.pipeline import reuse
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import TaskSpec, Transitions

_LEAST_SPREADS, _MOST_SPREADS = 1.0, 5000.0


def check_flags(configs: Configs) -> None:
    """Checks, before any data are read or made, flags and that --dynamics_from names a run.

    Raises:
      UserError: they do not go together, or there is no run.
    """
    check(configs)
    reuse.open_run(configs.run.dynamics_from, "dynamics_from")


def load_data(configs: Configs, task: TaskSpec, threads: int) -> tuple[Transitions, str]:
    """Loads --dataset, or the data that this run makes for itself; returns it with its name."""
    run = configs.run
    if not run.dataset:
        return generated.load_or_make(
            task,
            physics=run.physics,
            exploration=run.exploration,
            num_steps=run.data_steps,
            seed=run.seed,
            data_dir=run.data_dir,
            threads=threads,
        )
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
    # Velocities that somebody else recorded may be of other states.
    return data if run.dataset in KINDS else checks.with_own_states(data, task), name


def halt_out_of_scale(configs: Configs, data: Transitions) -> str:
    """What to say where HALT costs next to nothing, or all that there is, beside the data's rewards.

    --halt_offset is in reward units, and 50 suits rewards that spread by about 1.

    Args:
      configs: all knobs.
      data: the data set.

    Returns:
      Words; empty where nothing is wrong.
    """
    if configs.pmdp.halt != "absorbing" or configs.usad.threshold_rule == "none":
        return ""
    spread, offset = float(data.rewards.std()), configs.pmdp.halt_offset
    if not spread or _LEAST_SPREADS <= offset / spread <= _MOST_SPREADS:
        return ""
    return (
        f"HALT costs {offset:g} below the least reward, and rewards spread by {spread:.2g}; give "
        f"--halt_offset={50 * spread:.2g}, or rewards in another unit"
    )


def reused_run(configs: Configs, data: Transitions, data_hash: str) -> RunRecord | None:
    """Opens --dynamics_from and checks that its models were fitted as this run would.

    Raises:
      UserError: they were not, or the judge has no episodes to judge by.
    """
    judge.check_episodes(configs.judge, data)
    other = reuse.open_run(configs.run.dynamics_from, "dynamics_from")
    if other is None:
        return None
    if other.manifest["algorithm"] == "morel":
        theirs = from_manifest(other.manifest)
        differences = reuse.different_knobs(theirs.dynamics, configs.dynamics)
    else:
        differences = [f"its algorithm is {other.manifest['algorithm']}"]
    reuse.check_fits(
        other,
        flag="dynamics_from",
        differences=differences,
        data_hash=data_hash,
        task=tasks.get(configs.run.env, configs.run.simulator),
        fits=("dynamics",),
    )
    return other
