"""python -m offline_tf.study STUDY.toml: many runs, on this machine, a Ray cluster or Slurm."""

from __future__ import annotations

from flags import schema
from offline_tf.config.study_config import StudyConfig

USAGE = """
usage: python -m offline_tf.study STUDY.toml [--engine=local|ray|slurm] [--workers=N] [--status]

Works through the runs of a study; each is an ordinary run in a folder of its own. The same command
again goes on where it stopped: finished runs are left alone, others go on from their checkpoints. With
[search] in the file it tries flags, and ranks them by what their runs promise.
"""


def main(config: StudyConfig) -> None:
    """Works the study through."""
    from offline_tf.studies import working  # here, so that --help needs nothing else

    working.work(config)


def plan(config: StudyConfig) -> list[str]:
    """What --dry_run prints: each kind of run is asked what it would take."""
    from offline_tf.studies import working

    return working.plan(config)


if __name__ == "__main__":
    schema.run(
        main, configs=[StudyConfig], usage=USAGE, plan=plan, resumable=True, positional="study"
    )
