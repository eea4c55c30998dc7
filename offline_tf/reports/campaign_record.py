"""Records of campaigns: lists of run summaries under results/, each with the command that made it."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from offline_tf.run_folder import locks
from offline_tf.types import UserError


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
        kept = {k: v for k, v in summary.items() if k != "export"}
        kept.setdefault("command", command)
        old = runs.get(key(kept), kept)
        if old["command"] != kept["command"]:
            raise UserError(
                f"{path}: expected a run of another algorithm, variant, data set or seed than "
                f"`{old['command']}`, got `{kept['command']}`; use another record, or take that run out"
            )
        runs[key(kept)] = kept
    partial = path.with_name(path.name + ".partial")  # a kill leaves the old record or the new one
    partial.write_text(json.dumps([runs[name] for name in sorted(runs)], indent=1) + "\n")
    partial.replace(path)


def key(run: dict[str, Any]) -> tuple[str, str, str, int]:
    """What sets a run apart in a record: algorithm, variant, data set, seed."""
    # Data that differ only in the seed they were made with are one data set.
    dataset = run["dataset"].removesuffix(f"-seed{run['seed']}")
    return run["algorithm"], run.get("variant", ""), dataset, run["seed"]
