"""--select=offline: the settings that the judge promises most of, in place of those that were given.

The run is planned as it is and with each of the other settings, on the same models; each of these is a
run of its own under RUN/candidates. The best one becomes the run in RUN. No simulator decides.
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from absl import logging

from morel_tf.experiment import candidates
from morel_tf.experiment.configs import Configs, folder_of
from offline_tf.config import knobs
from offline_tf.models import devices
from offline_tf.pipeline.run import FREE_FLAGS
from offline_tf.run_folder import files
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.record import RunRecord, plain
from offline_tf.types import UserError

NAME = "selection.json"
_AS_GIVEN = "as-given"
_NOT_COPIED = shutil.ignore_patterns("run.lock", "tune", "tune.json", "tune.flags")


def run(configs: Configs, run_one: Callable[[Configs], dict[str, Any]]) -> dict[str, Any]:
    """Trains, selects, and leaves the selected run in the run's folder; goes on where it was killed.

    Args:
      configs: all knobs, with --select=offline.
      run_one: `recipe.run`.

    Returns:
      The summary of the selected run.

    Raises:
      UserError: the folder holds something else; there is no judge, or several workers.
    """
    folder = folder_of(configs)
    if not configs.judge.judge_members:
        raise UserError("--select: expected a judge, got --judge_members=0; or give --select=none")
    devices.check_one_worker("select=offline", configs.run.devices)
    asked = {k: plain(v) for k, v in configs.flat().items() if k not in FREE_FLAGS}
    if (folder / NAME).exists():
        known = knobs.of_older_runs(configs) | files.read_json(folder / NAME, "workdir")["asked"]
        if differing := [name for name in asked if known.get(name) != asked[name]]:
            raise UserError(
                f"--workdir: {folder} holds a selection with other flags ({', '.join(differing)}); "
                "choose another --workdir"
            )
        return files.read_json(folder / "summary.json", "workdir")
    if (folder / "manifest.json").exists() and not (folder / "candidates").exists():
        raise UserError(
            f"--workdir: {folder} holds a run without --select; choose another --workdir, or rank its "
            "settings with the command tune"
        )
    parts = folder / "candidates"
    base = candidates.changed(
        configs, {"select": "none", "workdir": str(parts / _AS_GIVEN), "inspection": False}
    )
    run_one(base)
    record = RunRecord.open_existing(parts / _AS_GIVEN)
    found = candidates.rank(record, configs.run.select_minutes, run_one, parts)
    summary = _hand_over(pathlib.Path(found[0].folder), folder, configs)
    write_json(
        folder / NAME,
        {
            "asked": asked,
            "chosen": found[0].flags,
            "candidates": [candidate._asdict() for candidate in found],
        },
    )
    logging.info("%s\nselected: %s", candidates.in_words(found), found[0].name)
    return summary


def _hand_over(best: pathlib.Path, folder: pathlib.Path, configs: Configs) -> dict[str, Any]:
    """Copies a candidate's run to where the run was asked for, under the flags that made it."""
    shutil.copytree(best, folder, ignore=_NOT_COPIED, dirs_exist_ok=True)
    manifest = files.read_json(best / "manifest.json", "workdir")
    manifest["flags"] |= {"workdir": configs.run.workdir, "inspection": configs.run.inspection}
    summary = files.read_json(best / "summary.json", "workdir")
    summary["export"] = str(folder / "export")
    write_json(folder / "manifest.json", manifest)
    write_json(folder / "export" / "manifest.json", manifest)
    write_json(folder / "summary.json", summary)
    return summary
