"""Every signature of runs' exports, computed by another Python, against the live objects.

python -m venv bare && bare/bin/pip install tensorflow==2.21.0
python -m benchmarks.exports --python=bare/bin/python --workdir=MOREL_RUN --workdir=MOPP_RUN \
    --numbers=results/tables/exports.json

The other Python needs TensorFlow and nothing else. Runs are exported to a temporary folder anew,
MOReL's with LiteRT files, and `offline_tf.export.saved_model.verify` compares, as it does after
every export.
"""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from absl import logging

from flags import schema
from mopp_tf import control_config
from mopp_tf.experiment import restore as mopp
from morel_tf.experiment import restore as morel
from offline_tf.config.knobs import check, knob
from offline_tf.export import saved_model
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import UserError

USAGE = "usage: python -m benchmarks.exports --python=PYTHON --workdir=RUN [--workdir=RUN]"


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Exports."""

    workdir: tuple[str, ...] = knob((), "Finished run; may be given several times.", repeated=True)
    python: str = knob("", "Interpreter that computes the exports.")
    numbers: str = knob("", "JSON file for the table.")

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        if not self.workdir or not self.python:
            raise UserError("--workdir, --python: expected both, got a missing one")


def main(config: BenchmarkConfig) -> None:
    """Compares and prints."""
    rows: list[dict[str, Any]] = []
    verify = saved_model.verify

    def noted(signatures: Any, path: pathlib.Path, samples: Any, *rest: Any, **more: Any) -> float:
        worst = verify(signatures, path, samples, *rest, **more)
        rows.append({"path": path.name, "signatures": sorted(samples), "largest_difference": worst})
        logging.info("%s", rows[-1])
        return worst

    saved_model.verify = noted  # type: ignore[assignment]
    own, sys.executable = sys.executable, config.python
    try:
        for number, folder in enumerate(config.workdir):
            record = RunRecord.open_existing(pathlib.Path(folder))
            with tempfile.TemporaryDirectory() as scratch:
                target = pathlib.Path(scratch, f"{record.manifest['algorithm']}-{number}")
                if record.manifest["algorithm"] == "morel":
                    morel.export_again(record, target, lite=True)
                else:
                    mopp.export_again(record, target, control_config.ControlConfig(), True)
    finally:
        sys.executable, saved_model.verify = own, verify
    packages = subprocess.run(
        [config.python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True
    ).stdout.split()
    if config.numbers:
        about = {"commit": provenance.commit(), "packages": packages}
        write_json(pathlib.Path(config.numbers), about | {"rows": rows})


if __name__ == "__main__":
    schema.run(main, configs=[BenchmarkConfig], usage=USAGE)
