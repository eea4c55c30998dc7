"""python -m morel_tf.export --workdir=RUN --output=FOLDER: writes and checks the SavedModel again."""

from __future__ import annotations

import dataclasses
import pathlib

from absl import logging

from flags import schema
from offline_tf.config import shared_knobs
from offline_tf.config.knobs import check, knob
from offline_tf.run_folder import files
from offline_tf.types import UserError

USAGE = """
usage: python -m morel_tf.export --workdir=RUN --output=FOLDER [--fallback=0,0,0] [--nolite]
                                 [--onnx] [--casadi]

Exports policy, detector and models of a finished run as a SavedModel, policy and detector as LiteRT
(TFLite) files too. With --onnx all three are ONNX files as well, with --casadi the models are a
function for CasADi. Compares all of them, in fresh processes, with the live model.
"""


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Export."""

    workdir: str = shared_knobs.run_folder_knob()
    output: str = knob("", "Folder of the SavedModel; it must not exist.")
    fallback: str = knob(
        "cloning",
        "What act_guarded does where the policy's action is unknown: cloning, the behaviour-cloned "
        "policy, or a constant action, A numbers separated by commas.",
    )
    lite: bool = knob(True, "Write policy.tflite and detector.tflite.")
    onnx: bool = knob(
        False, "Write policy.onnx, detector.onnx and model.onnx; needs requirements-onnx.txt."
    )
    casadi: bool = knob(
        False, "Write model.casadi, for do-mpc and others; needs requirements-casadi.txt."
    )

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if not self.workdir or not self.output:
            raise UserError("--workdir and --output: expected both, got a missing one")
        if pathlib.Path(self.output).exists():
            raise UserError(f"--output: expected a new folder, but {self.output} exists")
        files.check_writable(pathlib.Path(self.output), "output")


def main(config: ExportConfig) -> None:
    """Exports."""
    from morel_tf.experiment import (  # here, so that --help needs no TensorFlow
        casadi_model,
        restore,
    )
    from offline_tf.export import onnx_files
    from offline_tf.run_folder.record import RunRecord

    if config.onnx:
        onnx_files.check_installed()
    if config.casadi:
        casadi_model.library()
    record = RunRecord.open_existing(pathlib.Path(config.workdir))
    error = restore.export_again(
        record,
        pathlib.Path(config.output),
        config.fallback,
        config.lite,
        onnx=config.onnx,
        casadi=config.casadi,
    )
    logging.info("exported to %s; largest difference %.2g", config.output, error)


if __name__ == "__main__":
    schema.run(main, configs=[ExportConfig], usage=USAGE)
