"""What MOReL's judge said of policies along planning, beside what these returned.

python -m benchmarks.robustness.along_planning hopper-small=RUN hopper-three=RUN ...

Of each run folder: the judge's bound and mean at every look, the true mean return at every evaluation,
the rank correlations of both with it, and what was kept in the end. Writes
results/tables/along_planning.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import re
from typing import Any

import numpy as np

from benchmarks.robustness import __main__ as bench
from offline_tf.numerics import rank_statistics
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json
from offline_tf.types import UserError

_RECORD = pathlib.Path("results", "tables", "along_planning.json")
_JUDGED = ("promise", "expected", "models_apart", "halted_share", "length")
_TRUE = "true_return_mean"
_SUMMARY = ("command", "commit", "bc_return", "kept_iteration", "promise", _TRUE)


def _column(path: pathlib.Path, names: tuple[str, ...]) -> list[dict[str, float]]:
    if not path.exists():
        raise UserError(
            f"RUN: expected a finished run of MOReL with a judge, but {path} is missing"
        )
    with path.open() as lines:
        return [
            {name: float(row[name]) for name in ("step", *names) if row.get(name)}
            for row in csv.DictReader(lines)
        ]


def read(run: pathlib.Path) -> dict[str, Any]:
    """What a run folder says.

    Raises:
      UserError: it is none of a judged run.
    """
    metrics = run / "metrics"
    judged = _column(metrics / "planning.judge.csv", _JUDGED)
    true = [row for row in _column(metrics / "planning.evaluation.csv", (_TRUE,)) if _TRUE in row]
    steps = np.array([row["step"] for row in judged])
    found: dict[str, Any] = {"judged": judged, "true": true}
    if (summary := run / "summary.json").exists():
        numbers = json.loads(summary.read_text())
        found["summary"] = {name: numbers.get(name) for name in _SUMMARY}
        command = str(numbers.get("command", ""))
        found["summary"]["command"] = re.sub(r"--dataset=\S*/", "--dataset=", command)
    returns = np.array([row[_TRUE] for row in true])
    for name in ("promise", "expected"):
        said = np.array([row[name] for row in judged])
        nearest = [said[np.abs(steps - row["step"]).argmin()] for row in true]
        if len(true) > 1:
            found[f"rank_correlation_{name}"] = rank_statistics.rank_correlation(
                np.array(nearest), returns
            )
    return found


def told(name: str, found: dict[str, Any]) -> str:
    """A table of a run."""
    true = {row["step"]: row[_TRUE] for row in found["true"]}
    lines = [
        f"{name}: rank correlation of the bound {found.get('rank_correlation_promise', 0):.2f}, "
        f"of the mean {found.get('rank_correlation_expected', 0):.2f}"
    ]
    lines.append(f"{'step':>6} {'bound':>8} {'mean':>8} {'apart':>8} {'halted':>7}")
    lines += [
        f"{row['step']:6.0f} {row['promise']:8.0f} {row['expected']:8.0f} "
        f"{row['models_apart']:8.0f} {row['halted_share']:7.2f}"
        for row in found["judged"]
    ]
    lines.append("true: " + ", ".join(f"{step:.0f}: {value:.0f}" for step, value in true.items()))
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", help="NAME=RUN")
    parser.add_argument("--output", type=pathlib.Path, default=_RECORD)
    arguments = parser.parse_args(words)
    at = arguments.output
    record: dict[str, Any] = json.loads(at.read_text()) if at.exists() else {}
    for word in arguments.runs:
        name, equals, run = word.partition("=")
        if not equals:
            raise UserError(f"RUN: expected NAME=RUN, got {word!r}")
        found = read(pathlib.Path(run))
        print(told(name, found))
        record[name] = found | {"commit": provenance.commit()}
    write_json(at, record)
    return 0


if __name__ == "__main__":
    bench.exit_with(main)
