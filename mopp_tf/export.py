"""python -m mopp_tf.export --workdir=RUN --output=FOLDER: writes and checks the SavedModel again."""

from __future__ import annotations

import dataclasses
import pathlib

from absl import logging

from flags import schema
from mopp_tf.control_config import ControlConfig
from offline_tf.config import shared_knobs
from offline_tf.config.knobs import check, knob
from offline_tf.run_folder import files
from offline_tf.types import UserError

USAGE = """
usage: python -m mopp_tf.export --workdir=RUN --output=FOLDER [--nolite] [--onnx]
                                [--reward=...] [--constraint=...]

Exports the planner of a finished run as a SavedModel, and as LiteRT (TFLite) files in float32 and in
8-bit integers, with --onnx its models as ONNX files, and compares them with the live one. Another
reward and constraints, where given, are part of the export.
"""


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Export."""

    workdir: str = shared_knobs.run_folder_knob()
    output: str = knob("", "Folder of the SavedModel; it must not exist.")
    lite: bool = knob(True, "Write planner.tflite and planner_int8.tflite (MOPP's planner only).")
    onnx: bool = knob(
        False,
        "Write detector.onnx and model.onnx (MOPP's planner only); needs requirements-onnx.txt.",
    )

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if not self.workdir or not self.output:
            raise UserError("--workdir and --output: expected both, got a missing one")
        if pathlib.Path(self.output).exists():
            raise UserError(f"--output: expected a new folder, but {self.output} exists")
        files.check_writable(pathlib.Path(self.output), "output")


def main(config_: ExportConfig, control: ControlConfig) -> None:
    """Exports."""
    from mopp_tf.experiment import restore  # here, so that --help needs no TensorFlow
    from offline_tf.export import onnx_files
    from offline_tf.run_folder.record import RunRecord

    if config_.onnx:
        onnx_files.check_installed()
    record = RunRecord.open_existing(pathlib.Path(config_.workdir))
    error, lite = restore.export_again(
        record, pathlib.Path(config_.output), control, config_.lite, config_.onnx
    )
    logging.info("exported to %s; largest difference %.2g", config_.output, error)
    if lite:
        logging.info(
            "LiteRT: actions differ by %.2g (median), with 8-bit integers by %.2g on average; between "
            "two draws of the noise by %.2g (shares of half of the actions' range)",
            lite["float32"],
            lite["int8"],
            lite["noise"],
        )


if __name__ == "__main__":
    schema.run(main, configs=[ExportConfig, ControlConfig], usage=USAGE)
