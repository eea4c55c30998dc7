"""Held-out likelihood of MOPP's models against the steps of their fits, from the metrics of runs.

python -m benchmarks.likelihood --numbers results/tables/likelihood.json authors=RUN default=RUN

A run that is still going on, or was cut, is read as far as it came. Nats are of the models' units, so
that runs with other --targets or --normalize cannot be compared.
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib

import numpy as np

from offline_tf.pipeline.run import FREE_FLAGS
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import UserError

_STEPS = tuple(1000 * k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500))
_WINDOW = 0.1  # values are means over looks within this share of the steps: single looks are noisy


def curve(folder: pathlib.Path, stage: str) -> dict[int, float]:
    """Steps -> held-out negative log-likelihood (nats), mean over the looks of the last tenth of them.

    Args:
      folder: of the run.
      stage: "dynamics_fit" or "behavior_fit".

    Raises:
      UserError: the run holds nothing out.
    """
    path = folder / "metrics" / f"{stage}.csv"
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row.values())]  # the last may be torn
    if rows and "held_out" not in rows[0]:
        raise UserError(f"{folder}: expected a run with --holdout_share above 0, got none held out")
    steps = np.array([int(row["step"]) for row in rows])
    values = np.array([float(row["held_out"]) for row in rows])
    return {
        step: float(values[(steps <= step) & (steps > (1.0 - _WINDOW) * step)].mean())
        for step in sorted({*_STEPS, *steps[-1:].tolist()})
        if len(steps) and step <= steps[-1]
    }


def main() -> None:
    """Writes the numbers and prints them as a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--numbers", type=pathlib.Path, required=True)
    parser.add_argument("runs", nargs="+", help="NAME=RUN")
    arguments = parser.parse_args()
    report = {}
    for named_run in arguments.runs:
        name, _, run = named_run.partition("=")
        record = RunRecord.open_existing(pathlib.Path(run))
        curves = {stage: curve(record.folder, stage) for stage in ("dynamics_fit", "behavior_fit")}
        flags = record.manifest["flags"].items()
        fixed_flags = {flag: value for flag, value in flags if flag not in FREE_FLAGS}
        report[name] = {"commit": record.manifest["commit"], "flags": fixed_flags, **curves}
    arguments.numbers.write_text(json.dumps(report, indent=1) + "\n")
    columns = [(name, stage) for name in report for stage in ("dynamics_fit", "behavior_fit")]
    print(
        "| steps | "
        + " | ".join(f"{name}, {stage.split('_')[0]}" for name, stage in columns)
        + " |"
    )
    print("|" + "---|" * (len(columns) + 1))
    for step in sorted({step for name, stage in columns for step in report[name][stage]}):
        cells = [report[name][stage].get(step) for name, stage in columns]
        shown = ("-" if cell is None else f"{cell:.2f}" for cell in cells)
        print(f"| {step:,} | " + " | ".join(shown) + " |")


if __name__ == "__main__":
    main()
