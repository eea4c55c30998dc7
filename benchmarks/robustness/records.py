"""The record of each set: results/robustness/SET.json, a list of run summaries that only grows.

A run has, beside its algorithm's own numbers: set, split, kind, seed, variant, minutes, command (of
this bench), run (what the command started), and dataset, the set's name with the tag of its making.
Runs on data that were made otherwise stay in the record and are not shown.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from benchmarks.robustness.data_sets import DataSet
from offline_tf.reports import campaign_record
from offline_tf.types import UserError

FOLDER = pathlib.Path("results", "robustness")
Run = dict[str, Any]


def as_promised(run: Mapping[str, Any]) -> float:
    """The true return on the promise's terms, or the mean return where the run has no other."""
    name = "true_return_as_promised" if "true_return_as_promised" in run else "true_return_mean"
    return float(run[name])


def read(data_set: DataSet, folder: pathlib.Path = FOLDER) -> list[Run]:
    """All runs of a set."""
    path = folder / f"{data_set.name}.json"
    return json.loads(path.read_text()) if path.exists() else []


def is_done(command: str, dataset: str, runs: list[Run]) -> bool:
    """Whether that command was run on these very data."""
    return any(run["command"] == command and run["dataset"] == dataset for run in runs)


def check_free(command: str, key: tuple[str, str, str, int], runs: list[Run]) -> None:
    """Refuses, before it is run, what the record would not take.

    Args:
      command: of the bench.
      key: see `campaign_record.key`.
      runs: of the set.

    Raises:
      UserError: another command's run stands there.
    """
    for run in runs:
        if campaign_record.key(run) == key and run["command"] != command:
            raise UserError(
                f"--variant: `{run['command']}` stands in the record under this name, and `{command}` "
                "is another command; give it a --variant of its own"
            )


def keep(
    data_set: DataSet, summary: pathlib.Path, common: Run, folder: pathlib.Path = FOLDER
) -> None:
    """Puts what a run wrote into its set's record.

    Args:
      data_set: of the run.
      summary: a summary.json: a run, or a list of runs.
      common: what the bench says of it: dataset, seed, command, and so on.
      folder: of the records.
    """
    content = json.loads(summary.read_text())
    runs = content if isinstance(content, list) else [content]
    about = {"set": data_set.name, "split": data_set.split, "kind": data_set.kind} | common
    told = [run | about | {"minutes": round(run["wall_seconds"] / 60.0, 2)} for run in runs]
    campaign_record.add(folder / f"{data_set.name}.json", told, common["command"])
