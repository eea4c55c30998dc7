"""python -m offline_tf.predict: actions of an export for a file of observations."""

from __future__ import annotations

import dataclasses
import pathlib

from flags import schema
from offline_tf.config.knobs import check, knob
from offline_tf.datasets.formats import tables
from offline_tf.export import prediction_files
from offline_tf.run_folder import files
from offline_tf.types import UserError

USAGE = """
usage: python -m offline_tf.predict --export=FOLDER --input=FILE --output=FILE [--guarded]

Reads observations by blocks and writes one row each: the action and how far the data support it.
Input: a table with the observations' names as columns (CSV in any dialect, Parquet), npz or HDF5 with
`observations` [N, S]; of a plant, a log like the one it learned from: then a row is a step. Output, by
its ending: CSV, npz or HDF5. Of MOReL: action, known, disagreement; with --guarded, fallback_used.
Of MOPP: action, kept_share, disagreement, expected_return; each row is an episode's first decision.
"""


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Prediction."""

    export: str = knob("", "Folder of the export, or of the run.")
    input: str = knob("", "Observations: a table, .npz or .hdf5; or a plant's log.")
    output: str = knob("", "Where to write: .csv, .npz or .hdf5; must not exist.")
    guarded: bool = knob(False, "MOReL: the fallback's action where the policy's is unknown.")
    batch_size: int = knob(
        0, "Rows per call; 0: 4096 of a policy, 64 of a planner, whose rows take megabytes.", low=0
    )
    seed: int = knob(0, "MOPP: of the proposals.", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        for name in ("export", "input", "output"):
            if not getattr(self, name):
                raise UserError(f"--{name}: expected a path, got none")
        if pathlib.Path(self.output).suffix.lower() not in prediction_files.SUFFIXES:
            raise UserError(f"--output: expected a .csv, .npz or .hdf5 file, got {self.output}")
        source = pathlib.Path(self.input)
        if not tables.is_table(source) and source.suffix.lower() not in prediction_files.SUFFIXES:
            raise UserError(f"--input: expected a table, a .npz or a .hdf5 file, got {source}")
        if not source.is_file():
            raise UserError(f"--input: expected a file at {self.input}, found none")
        if pathlib.Path(self.output).exists():
            raise UserError(f"--output: {self.output} exists; it is not replaced")
        files.check_writable(pathlib.Path(self.output), "output")


def main(config: PredictConfig) -> None:
    """Predicts."""
    from offline_tf.datasets.formats import observation_files
    from offline_tf.export import batch_prediction, saved_model  # here: --help needs no TensorFlow
    from offline_tf.tasks.plants import plant_file

    source = pathlib.Path(config.input)
    model = batch_prediction.load(config.export, config.guarded)
    plant, task = model.folder / saved_model.PLANT, None
    if plant.exists() and tables.is_table(source):
        task = plant_file.read(plant)
        if task.log is not None and task.log.time not in tables.Table(source).names:
            task = None  # it holds observations, not a log
    size = config.batch_size or batch_prediction.rows_per_call(model)
    batch_prediction.predict_blocks(
        model,
        observation_files.blocks(source, model.interface.observation_names, size, task),
        pathlib.Path(config.output),
        source=config.input,
        guarded=config.guarded,
        seed=config.seed,
    )


if __name__ == "__main__":
    schema.run(main, configs=[PredictConfig], usage=USAGE)
