"""Records of campaigns: lists of run summaries under results/, each with the command that made it.

Every algorithm's summary has: algorithm, env, dataset, seed, commit, behavior_return (of the data)
and wall_seconds. Measured in a simulator: true_return_mean, episodes, normalized_score and, where a
behaviour model acted too, bc_return. Of ablations: variant. Other numbers are the algorithm's own.
"""

from __future__ import annotations

import csv
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from offline_tf.run_folder import files, locks
from offline_tf.types import UserError

_COLUMNS = "columns.csv"


def add(path: pathlib.Path, summaries: list[dict[str, Any]], command: str) -> None:
    """Puts summaries into a record; one of the same algorithm, variant, data and seed is replaced.

    Nothing is written where that run was made by another command: its flags may differ in what the
    variant does not name.

    Args:
      path: of the record.
      summaries: contents of summary.json files.
      command: for summaries that do not name their own.

    Raises:
      UserError: another command's run would be replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locks.held(path.with_name(path.name + ".lock")):
        _add(path, summaries, command)


def _add(path: pathlib.Path, summaries: list[dict[str, Any]], command: str) -> None:
    record = json.loads(path.read_text()) if path.exists() else []
    runs = {key(run): run for run in record}
    for summary in summaries:
        # Where a run lay says nothing to a reader.
        row = {k: v for k, v in summary.items() if k != "export"}
        row.setdefault("command", command)
        old = runs.get(key(row), row)
        if old["command"] != row["command"]:
            raise UserError(
                f"{path}: expected a run of another algorithm, variant, data set or seed than "
                f"`{old['command']}`, got `{row['command']}`; use another record, or take that run out"
            )
        runs[key(row)] = row
    with files.whole(path) as partial:
        partial.write_text(json.dumps([runs[name] for name in sorted(runs)], indent=1) + "\n")


def key(run: dict[str, Any]) -> tuple[str, str, str, int]:
    """What sets a run apart in a record: algorithm, variant, data set, seed."""
    # Data that differ only in the seed they were made with are one data set.
    dataset = run["dataset"].removesuffix(f"-seed{run['seed']}")
    return run["algorithm"], run.get("variant", ""), dataset, run["seed"]


def headings(folder: pathlib.Path, runs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Which numbers of a summary tables show, and under which words: key -> heading, in order.

    They stand in FOLDER/columns.csv, a line "key,heading" each. Without that file, tables show all
    numbers of the runs under their own keys.

    Raises:
      UserError: a line of the file has not two cells.
    """
    path = folder / _COLUMNS
    if path.exists():
        with path.open(newline="") as file:
            lines = [line for line in csv.reader(file) if line]
        if wrong := [line for line in lines if len(line) != 2]:
            raise UserError(f'{path}: expected lines "key,heading", got {",".join(wrong[0])!r}')
        return dict(lines[1:])
    return {
        key: key
        for run in runs
        for key, value in run.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
