"""python -m morel_tf.inspect --workdir=RUN: looks at the models and the detector of a run again."""

from __future__ import annotations

import dataclasses
import pathlib

from absl import logging

from flags import schema
from morel_tf import experiment
from offline_tf import process
from offline_tf.knobs import check, knob
from offline_tf.run_record import RunRecord
from offline_tf.types import UserError

USAGE = """
usage: python -m morel_tf.inspect --workdir=RUN [--against=expert-ours] [--against=FILE]

Draws the pictures of RUN/inspection anew, and says how well disagreement tells the data from other
data: shuffled and random actions, and the data sets that are given.
"""


@dataclasses.dataclass(frozen=True)
class InspectConfig:
    """Inspection."""

    workdir: str = knob("", "Run folder.")
    against: tuple[str, ...] = knob(
        (),
        "Data set to tell apart, as for --dataset, or random-ours, medium-ours ...; may be "
        "given several times.",
        repeated=True,
    )
    data_dir: str = knob("", "Folder for data that is made; empty: the run's.")
    threads: int = knob(0, "CPU threads; 0: all cores.", low=0)

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if not self.workdir:
            raise UserError("--workdir: expected the folder of a run, got none")


def main(config: InspectConfig) -> None:
    """Inspects and prints the numbers."""
    threads = process.use_threads(config.threads)
    record = RunRecord.open_existing(pathlib.Path(config.workdir))
    numbers = experiment.inspect_again(record, config.against, config.data_dir, threads)
    for name, value in numbers.items():
        logging.info("  %-28s %.3f", name, value)
    logging.info("pictures: %s", record.folder / "inspection")


if __name__ == "__main__":
    schema.run(main, [InspectConfig], USAGE)
