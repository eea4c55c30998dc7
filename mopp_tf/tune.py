"""python -m mopp_tf.tune --workdir=RUN: other settings for a planner, ranked without a simulator."""

from __future__ import annotations

import pathlib

from absl import logging

from flags import schema
from offline_tf.config.shared_knobs import TuneConfig

USAGE = """
usage: python -m mopp_tf.tune --workdir=RUN [--minutes=N]

Rolls planners with other settings out in the models of a finished run's judge, one setting changed at a
time: horizon, temperature, value, proposals. They are ranked by what they surely gain over the clone.
The table lies in RUN/tune.json, the flags of the best in RUN/tune.flags. Started again it goes on.
"""


def main(config: TuneConfig) -> None:
    """Prints the table and writes RUN/tune.json and RUN/tune.flags."""
    from mopp_tf.experiment import candidates  # here, so that --help needs no TensorFlow
    from offline_tf.run_folder.record import RunRecord

    record = RunRecord.open_existing(pathlib.Path(config.workdir))
    logging.info("%s", candidates.in_words(candidates.rank(record, config.minutes)))


if __name__ == "__main__":
    schema.run(main, configs=[TuneConfig], usage=USAGE)
