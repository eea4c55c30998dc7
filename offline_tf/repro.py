"""python -m offline_tf.repro --workdir=RUN: makes a run again and says whether it is the same."""

from __future__ import annotations

import dataclasses
import pathlib
import sys

from absl import logging

from flags import schema
from offline_tf.config import shared_knobs
from offline_tf.config.knobs import check, knob

USAGE = """
usage: python -m offline_tf.repro --workdir=RUN [--output=FOLDER]

Makes a finished run again from its manifest: same flags, same seed, a folder of its own. Then says
whether weights, numbers, exports and pictures are the same to the bit, and if not in which stage they
part. Exit status 0: the same; 1: not. Started again it goes on where it stopped.
"""
_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class ReproConfig:
    """A run again."""

    workdir: str = shared_knobs.run_folder_knob()
    output: str = knob("", "Folder of the new run; empty: RUN/repro.")
    threads: int = knob(-1, "Threads of the new run; -1: as of the old one.", low=-1)

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        shared_knobs.check_run_folder(self.workdir)


def main(config: ReproConfig) -> None:
    """Prints what is not the same; the exit status says whether something is."""
    from offline_tf.pipeline import repeating  # here, so that --help needs no TensorFlow
    from offline_tf.run_folder import comparison
    from offline_tf.run_folder.record import RunRecord

    record = RunRecord.open_existing(pathlib.Path(config.workdir))
    comparison.parts_of(record.folder)  # it is finished
    folder = pathlib.Path(config.output or record.folder / "repro")
    for line in repeating.other_means(record):
        logging.warning("repro: %s", line)
    found = repeating.repeat(record, folder, None if config.threads < 0 else config.threads)
    if not found:
        logging.info("%s is the same as %s, to the bit", folder, record.folder)
        return
    logging.error("%s differs from %s, first in %s:", folder, record.folder, found[0].stage)
    for difference in found[:_SHOWN]:
        logging.error("  %s: %s", difference.stage, difference.what)
    if len(found) > _SHOWN:
        logging.error("  and %d more", len(found) - _SHOWN)
    sys.exit(1)


if __name__ == "__main__":
    schema.run(main, configs=[ReproConfig], usage=USAGE, resumable=True)
