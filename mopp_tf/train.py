"""python -m mopp_tf.train --env=hopper --dataset=medium-ours: from data to an exported planner."""

from __future__ import annotations

from flags import schema
from mopp_tf import config
from offline_tf import tasks

USAGE = """
usage: python -m mopp_tf.train --env=hopper --dataset=medium-ours [flags]

Fits MOPP's models to logged data, measures the planner in the simulator and exports it. Makes the data
first where it is one of ours. The same command again continues a run that was interrupted.
"""


def main(*configs: object) -> None:
    """Runs the experiment."""
    from mopp_tf.experiment import recipe  # here, so that --help needs no TensorFlow
    from mopp_tf.experiment.configs import Configs

    recipe.run(Configs(*configs))  # type: ignore[arg-type]


def plan(*configs: object) -> list[str]:
    """What --dry_run prints."""
    from mopp_tf.experiment import dry_run

    return dry_run.plan(*configs)


if __name__ == "__main__":
    schema.run(
        main,
        configs=config.STAGES,
        usage=USAGE,
        family="mopp",
        known_tasks=tasks.names(),
        default_env="hopper",
        default_dataset="medium-ours",
        plan=plan,
        resumable=True,
    )
