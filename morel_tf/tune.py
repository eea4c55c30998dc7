"""python -m morel_tf.tune --workdir=RUN: other settings for a run, ranked without a simulator."""

from __future__ import annotations

import pathlib

from absl import logging

from flags import schema
from offline_tf.config.shared_knobs import TuneConfig

USAGE = """
usage: python -m morel_tf.tune --workdir=RUN [--minutes=N]

Plans anew on the models of a finished run, with one setting changed at a time: steps, threshold, start,
noise. The run's judge ranks them by its promise. Each is a run of its own under RUN/tune, with an
export; the table lies in RUN/tune.json, the flags of the best in RUN/tune.flags. Started again it goes
on where it stopped.
"""


def main(config: TuneConfig) -> None:
    """Prints the table and writes RUN/tune.json and RUN/tune.flags."""
    from morel_tf.experiment import candidates, recipe  # here, so that --help needs no TensorFlow
    from offline_tf.run_folder.record import RunRecord

    record = RunRecord.open_existing(pathlib.Path(config.workdir))
    found = candidates.rank(record, config.minutes, recipe.run)
    logging.info("%s", candidates.in_words(found))


if __name__ == "__main__":
    schema.run(main, configs=[TuneConfig], usage=USAGE)
