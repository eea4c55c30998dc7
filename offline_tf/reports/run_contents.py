"""What a report reads of a run folder: manifest, summary, stages, tables of metrics, layout."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from offline_tf.reports import report_layout
from offline_tf.reports.report_layout import Layout
from offline_tf.run_folder import files
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, UserError


class Run(NamedTuple):
    """A run folder as read.

    Attributes:
      folder: where it lies.
      name: of the folder.
      manifest, summary: what manifest.json and summary.json hold; no summary before the end.
      stages: name -> {"result", "seconds"} of complete stages.
      tables: name -> structured array with a row per step and a column per metric.
      layout: what to show, as the run's algorithm said; None in folders of older runs.
    """

    folder: pathlib.Path
    name: str
    manifest: dict[str, Any]
    summary: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    tables: dict[str, Array]
    layout: Layout | None


def read(folder: pathlib.Path) -> Run:
    """Reads a run folder.

    Raises:
      UserError: there is no run, it has not come to a first stage, or its panels.json is damaged.
    """
    record = RunRecord.open_existing(folder)
    stages = record.results()
    if not stages:
        raise UserError(f"--workdir: expected a run with a finished stage, {folder} has none")
    summary_file = folder / "summary.json"
    tables = {}
    for path in sorted((folder / "metrics").glob("*.csv")):
        table = _table_of(path)
        if table is not None:
            tables[path.stem] = table
    return Run(
        folder=folder,
        name=folder.resolve().name,
        manifest=record.manifest,
        summary=files.read_json(summary_file, "workdir") if summary_file.exists() else {},
        stages=stages,
        tables=tables,
        layout=report_layout.read(folder),
    )


def _table_of(path: pathlib.Path) -> Array | None:
    """A table of metrics by column; a row that a kill cut short is left out, an empty table is None.

    Raises:
      UserError: it is damaged.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        whole = [row for row in rows[1:] if len(row) == len(rows[0])]
        if whole and not _are_numbers(whole[-1]):  # cut within a number
            whole.pop()
        if not whole:
            return None
        kinds = [(name, np.float64) for name in rows[0]]
        return np.array([tuple(float(cell) for cell in row) for row in whole], kinds)
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"--workdir: expected a table of numbers in {path} ({error}); delete it to see the rest"
        ) from None


def _are_numbers(cells: Sequence[str]) -> bool:
    try:
        return bool([float(cell) for cell in cells])
    except ValueError:
        return False


def named_apart(runs: Sequence[Run]) -> list[Run]:
    """Runs whose folders have the same name are told apart by a number."""
    names = [run.name for run in runs]
    return [
        run._replace(name=f"{run.name} ({number + 1})") if names.count(run.name) > 1 else run
        for number, run in enumerate(runs)
    ]


def layouts(runs: Sequence[Run]) -> list[Layout]:
    """The layout of each run.

    A run without its own takes that of another run of its algorithm, else `report_layout.plain`.
    """
    by_algorithm = {run.manifest["algorithm"]: run.layout for run in runs if run.layout}
    return [
        run.layout
        or by_algorithm.get(run.manifest["algorithm"])
        or report_layout.plain(run.tables, run.summary)
        for run in runs
    ]
