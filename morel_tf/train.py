"""python -m morel_tf.train --env=walker2d: from data to an exported MOReL policy."""

from __future__ import annotations

from flags import schema
from morel_tf import config
from offline_tf import tasks

USAGE = """
usage: python -m morel_tf.train --env=walker2d [--preset=quick] [--dataset=FILE] [flags]

Learns a policy from logged data with MOReL and exports it. Makes the data first where none is given.
The same command again continues a run that was interrupted.
"""


def main(*configs: object) -> None:
    """Runs the experiment."""
    from morel_tf.experiment import recipe, selection  # here, so that --help needs no TensorFlow
    from morel_tf.experiment.configs import Configs

    asked = Configs(*configs)  # type: ignore[arg-type]
    if asked.run.select == "offline":
        selection.run(asked, recipe.run)
    else:
        recipe.run(asked)


def plan(*configs: object) -> list[str]:
    """What --dry_run prints."""
    from morel_tf.experiment import dry_run

    return dry_run.plan(*configs)


if __name__ == "__main__":
    schema.run(
        main,
        configs=config.STAGES,
        usage=USAGE,
        family="morel",
        known_tasks=tasks.names(),
        default_env="hopper",
        plan=plan,
        resumable=True,
    )
