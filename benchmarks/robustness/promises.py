"""What the runs promised beside what they then earned, and whether their verdicts were right.

The truth is the mean return of the mean action, from starts of the data where these can be taken up.
A run is good where it earns at least what those who made the data did as they acted, and its promise
is not above the truth by more than a tenth of it. It is bad where it earns less than they did, or where
its promise is above the truth by more than a quarter of it. In between it is neither.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.robustness import records, table
from benchmarks.robustness.data_sets import DataSet

_GOOD, _BAD = 0.1, 0.25  # of the truth


class Promised(NamedTuple):
    """A run with a judge.

    Attributes:
      name: set, algorithm and seed.
      promise, true: lower bound and mean return.
      verdict: "green", "doubtful" or "bad".
      grounds: those that are not green.
      kind: "good", "bad" or "" for neither; see above.
    """

    name: str
    promise: float
    true: float
    verdict: str
    grounds: tuple[str, ...]
    kind: str


def kind_of(promise: float, true: float, acted: float) -> str:
    """Of a run whose data's makers earn `acted`."""
    above = (promise - true) / max(abs(true), 1e-9)
    if true < acted or above > _BAD:
        return "bad"
    return "good" if above <= _GOOD else ""


def found_in(sets: Sequence[DataSet], folder: pathlib.Path = records.FOLDER) -> list[Promised]:
    """All runs with a promise on the sets' data of today."""
    found = []
    for data_set in sets:
        row, runs = table.runs_of(data_set, folder)
        for run in runs:
            if row is None or "promise" not in run:
                continue
            true = records.as_promised(run)
            grounds = run["verdict"]["grounds"]
            found.append(
                Promised(
                    f"{data_set.name}, {table.column_of(run)}, seed {run['seed']}",
                    promise=run["promise"],
                    true=true,
                    verdict=run["verdict"]["level"],
                    grounds=tuple(g for g in grounds if grounds[g]["level"] != "green"),
                    kind=kind_of(run["promise"], true, row.acted),
                )
            )
    return found


def report(sets: Sequence[DataSet], folder: pathlib.Path = records.FOLDER) -> str:
    """A table of the runs, and what they come to; empty without any."""
    runs = found_in(sets, folder)
    if not runs:
        return ""
    kept = sum(run.promise <= run.true for run in runs)
    good = [run for run in runs if run.kind == "good"]
    bad = [run for run in runs if run.kind == "bad"]
    lines = [
        "## Promises",
        "",
        "| run | promise | true | verdict | grounds | is |",
        "|---" * 6 + "|",
    ]
    lines += [
        f"| {r.name} | {r.promise:.0f} | {r.true:.0f} | {r.verdict} | {', '.join(r.grounds)} | "
        f"{r.kind or 'between'} |"
        for r in runs
    ]
    return "\n".join(
        [
            *lines,
            "",
            f"- The promise is at or below the truth in {kept} of {len(runs)} runs.",
            f"- Green: {_green(good)} good runs, {_green(bad)} bad ones.",
            "",
        ]
    )


def _green(runs: Sequence[Promised]) -> str:
    return f"{sum(run.verdict == 'green' for run in runs)} of {len(runs)}"
