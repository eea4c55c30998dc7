"""python -m offline_tf.datasets.convert: from any format to D4RL's HDF5 or Minari's."""

from __future__ import annotations

import dataclasses
import pathlib

from absl import logging

from flags import schema
from offline_tf import tasks
from offline_tf.config import shared_knobs
from offline_tf.config.knobs import check, knob
from offline_tf.datasets.names import FORMS, Reading
from offline_tf.run_folder import files
from offline_tf.types import UserError

USAGE = """
usage: python -m offline_tf.datasets.convert --env=hopper --dataset=FILE --output=FILE.hdf5 [flags]

Writes what --dataset names (everything that training takes) as one HDF5 file with D4RL's keys, or, with
--form=minari, as a folder that the minari package loads.
"""


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Conversion."""

    dataset: str = knob("", "What to read.")
    columns: tuple[str, ...] = shared_knobs.columns_knob()
    observation_keys: tuple[str, ...] = shared_knobs.observation_keys_knob()
    env: str = shared_knobs.env_knob()
    output: str = knob("", "HDF5 file, or folder of the Minari data set; must not exist.")
    form: str = knob("d4rl", "What to write.", choices=("d4rl", "minari"))
    dataset_id: str = knob("", "Minari's id; empty: offline/NAME-v0.")

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if not self.dataset:
            raise UserError(f"--dataset: expected {FORMS}, got none")
        if not self.output:
            raise UserError("--output: expected a path to write to, got none")


def main(config: ConvertConfig) -> None:
    """Reads and writes."""
    from offline_tf.datasets import sources
    from offline_tf.datasets.formats import d4rl, minari  # here: --help needs no TensorFlow

    task = tasks.get(config.env)
    path = pathlib.Path(config.output)
    if path.exists():
        raise UserError(f"--output: {path} exists; it is not replaced")
    files.check_writable(path, "output")
    data, name = sources.load(
        config.dataset, task, Reading(config.columns, config.observation_keys)
    )
    if config.form == "d4rl":
        d4rl.write(path, data, None, {"task": task.name, "converted_from": name})
    else:
        stem = pathlib.Path(name).name.partition(".")[0]
        minari.write(path, data, task, config.dataset_id or f"offline/{stem}-v0")
    logging.info("%s: %d transitions, %d episodes", path, len(data), len(data.episode_bounds()))


if __name__ == "__main__":
    schema.run(main, configs=[ConvertConfig], usage=USAGE)
