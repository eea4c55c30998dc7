"""python -m offline_tf.what_if --workdir=RUN: what would follow from actions that nobody tried."""

from __future__ import annotations

import dataclasses
import pathlib

from absl import logging

from flags import schema
from offline_tf.config import shared_knobs
from offline_tf.config.knobs import check, knob
from offline_tf.run_folder import files
from offline_tf.types import Array, UserError

USAGE = """
usage: python -m offline_tf.what_if --workdir=RUN [--start=2024-03-01T10:00] [--actions=FILE]

Begins in a state of the log and lets each of the run's models go its own way: what would be measured,
as a band, and in which steps the detector knows what is done. Beside it what the log has, and what the
controller would have done there. --actions: a table with a column per action and a row per step;
"logged", the log's own, to see how far the models can be trusted; "controller", the export in the
loop.
"""


@dataclasses.dataclass(frozen=True)
class WhatIfConfig:
    """A forecast."""

    workdir: str = shared_knobs.run_folder_knob()
    start: str = knob(
        "",
        "Where it begins: a time stamp of the log, or a row of data without stamps; empty: the longest "
        "piece's begin.",
    )
    actions: str = knob("controller", "controller, logged, or a table with a column per action.")
    steps: int = knob(0, "Steps; 0: the table's, else an episode's.", low=0, high=100_000)
    output: str = knob(
        "", "HTML page to write; must not exist. A .csv of the same name goes with it."
    )

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        shared_knobs.check_run_folder(self.workdir)
        if self.output and not self.output.endswith(".html"):
            raise UserError(f"--output: expected a name that ends in .html, got {self.output!r}")
        for path in self.outputs:
            if path.exists():
                raise UserError(f"--output: {path} exists; it is not replaced")
            files.check_writable(path, "output")

    @property
    def outputs(self) -> tuple[pathlib.Path, ...]:
        """The page and the table; none without --output."""
        page = pathlib.Path(self.output)
        return (page, page.with_suffix(".csv")) if self.output else ()


def main(config: WhatIfConfig) -> None:
    """Forecasts, tells, and writes."""
    from offline_tf.export import loaded  # here, so that --help needs no TensorFlow
    from offline_tf.pipeline import what_if
    from offline_tf.run_folder.record import RunRecord

    record = RunRecord.open_existing(pathlib.Path(config.workdir))
    model = loaded.Deployed(record.folder)
    if "forecast" not in model.signatures:
        raise UserError(
            f"--workdir: the export in {model.folder} has no models in it; MBOP's has none, and older "
            "ones are made again with `./run.sh export` or `./run.sh mopp-export`"
        )
    log = what_if.open_log(record)
    row = what_if.row_of(log, config.start)
    actions: Array | str = config.actions
    steps = config.steps or log.task.max_episode_steps
    if config.actions not in (what_if.LOGGED, what_if.CONTROLLER):
        actions = what_if.actions_of(pathlib.Path(config.actions), log.task)
        if config.steps > len(actions):
            raise UserError(
                f"--steps: {config.actions} has {len(actions)} rows of actions, fewer than "
                f"{config.steps}"
            )
        steps = config.steps or len(actions)
    found = what_if.forecast(model, log, row=row, steps=steps, actions=actions)
    begins = what_if.moment_in_words(log, row)
    for line in (f"from {begins} on, actions: {config.actions}", *what_if.in_words(found, log)):
        logging.info("%s", line)
    if config.outputs:
        page, table = config.outputs
        what_if.write_table(table, found, log, row)
        what_if.write_page(page, found, log, f"{record.folder.name}, from {begins} on")
        logging.info("%s, %s", page, table)


if __name__ == "__main__":
    schema.run(main, configs=[WhatIfConfig], usage=USAGE)
