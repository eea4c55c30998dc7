"""python -m offline_tf.datasets.describe --table=log.csv: a first plant.toml from a log."""

from __future__ import annotations

import dataclasses
import pathlib

from absl import logging

from flags import schema
from offline_tf.config.knobs import check, knob
from offline_tf.types import UserError

USAGE = """
usage: python -m offline_tf.datasets.describe --table=log.csv [--output=plant.toml] [flags]

Looks at a table with time stamps and writes a task from it: which columns move like set points
(actions) and which like measurements, sampling time, gaps, delays, stuck sensors, each with its
evidence. Read it, say what is wanted ([reward]), and give it to --env.
"""


@dataclasses.dataclass(frozen=True)
class DescribeConfig:
    """Description."""

    table: str = knob("", "The log: CSV in any dialect, packed or not, or Parquet.")
    output: str = knob("plant.toml", "File to write; must not exist.")
    time: str = knob("", "Column of the time stamps; empty: the first that looks like one.")
    step_seconds: float = knob(0.0, "Sampling time in seconds; 0: one that suits.", low=0.0)
    history: int = knob(
        0,
        "Rows in an observation, past actions among them; 0: as delays suggest.",
        low=0,
        high=100,
    )

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if not self.table:
            raise UserError("--table: expected a CSV or Parquet table, got none")
        if not self.output.endswith(".toml"):
            raise UserError(f"--output: expected a name that ends in .toml, got {self.output!r}")


def main(config: DescribeConfig) -> None:
    """Looks, and writes."""
    from offline_tf.datasets.description import draft, table_facts
    from offline_tf.datasets.formats import tables  # here: --help needs no TensorFlow
    from offline_tf.run_folder import files
    from offline_tf.tasks.plants import plant_file

    path, output = pathlib.Path(config.table), pathlib.Path(config.output)
    if not path.is_file() or not tables.is_table(path):
        raise UserError(f"--table: expected a CSV or Parquet table at {path}, found none")
    if output.exists():
        raise UserError(f"--output: {output} exists; it is not replaced")
    files.check_writable(output, "output")
    facts = table_facts.find(path, config.time, config.step_seconds)
    text = draft.write(facts, draft.identifier(output.stem), config.history)
    with files.whole(output) as partial:
        partial.write_text(text, encoding="utf-8")
    for kind in ("observation", "action", "reward"):
        names = ", ".join(column.name for column in facts.of_kind(kind)) or "none found"
        logging.info("%ss: %s", kind, names)
    if facts.of_kind("action"):
        plant_file.read(output)
    logging.info(
        "%s: every %g s, %d gaps; read it, say what is wanted under [reward], then\n"
        "./run.sh doctor --env=%s --dataset=%s",
        output,
        facts.step_seconds,
        len(facts.gaps),
        output,
        path,
    )


if __name__ == "__main__":
    schema.run(main, configs=[DescribeConfig], usage=USAGE)
