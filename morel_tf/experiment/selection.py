"""--select=offline: the settings that the judge promises most of, in place of those that were given.

The run is planned as it is and with each of the other settings, on the same models; each of these is a
run of its own under RUN/candidates. The best one becomes the run in RUN, and is inspected there. No
simulator decides.
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from absl import logging

from morel_tf.experiment import candidates
from morel_tf.experiment.configs import Configs, folder_of, from_manifest
from offline_tf.config import knobs
from offline_tf.models import devices
from offline_tf.pipeline.run import FREE_FLAGS
from offline_tf.run_folder import files
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.record import RunRecord, plain
from offline_tf.types import UserError

NAME = "selection.json"
_AS_GIVEN = "as-given"
_NOT_COPIED = shutil.ignore_patterns("run.lock", "tune", "tune.json", "tune.flags", "summary.json")


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
    check(configs)
    folder = folder_of(configs)
    if not (folder / NAME).exists():
        _select(configs, run_one)
    if not (folder / "summary.json").exists():
        _hand_over(configs)
    if configs.run.inspection:
        record = RunRecord.open_existing(folder)
        if not record.stage("inspection").complete:
            free = {name: configs.flat()[name] for name in FREE_FLAGS} | {"workdir": str(folder)}
            return run_one(candidates.changed(from_manifest(record.manifest), free))
    return files.read_json(folder / "summary.json", "workdir")


def _select(configs: Configs, run_one: Callable[[Configs], dict[str, Any]]) -> None:
    """Runs the candidates and writes which of them is the best; that stays, whatever is tried later."""
    base = _as_given(configs)
    run_one(base)
    record = RunRecord.open_existing(folder_of(base))
    found = candidates.rank(record, configs.run.select_minutes, run_one, record.folder.parent)
    write_json(
        folder_of(configs) / NAME,
        {
            "asked": _asked(configs),
            "chosen": found[0].flags,
            "candidates": [candidate._asdict() for candidate in found],
        },
    )
    logging.info("%s\nselected: %s", "\n".join(candidates.table(found)), found[0].name)


def check(configs: Configs) -> pathlib.Path | None:
    """Checks, reading no data and changing nothing, that a selection may go into the run's folder.

    Args:
      configs: all knobs, with --select=offline.

    Returns:
      The folder of the run that a new try would go on with, or read; None where nothing is begun.

    Raises:
      UserError: see `run`.
    """
    folder, base = folder_of(configs), _as_given(configs)
    if not configs.judge.judge_members:
        raise UserError("--select: expected a judge, got --judge_members=0; or give --select=none")
    devices.check_one_worker("select=offline", configs.run.devices)
    defaults = knobs.of_older_runs(configs)
    if (folder / NAME).exists():
        told = files.read_json(folder / NAME, "workdir").get("asked")
        if not isinstance(told, dict):
            raise UserError(f"--workdir: expected a selection at {folder / NAME}, got another file")
        known, asked = defaults | told, _asked(configs)
        if differing := [name for name in asked if known.get(name) != asked[name]]:
            raise UserError(
                f"--workdir: {folder} holds a selection with other flags ({', '.join(differing)}); "
                "choose another --workdir"
            )
        return folder
    if not folder_of(base).exists():
        if (folder / "manifest.json").exists():
            raise UserError(
                f"--workdir: {folder} holds a run without --select; choose another --workdir, or rank "
                "its settings with the command tune"
            )
        RunRecord.check_folder(folder, "morel", {})  # what is there would be written over
    flags = base.flat()
    begun = RunRecord.check_folder(folder_of(base), "morel", flags, FREE_FLAGS, defaults)
    return folder_of(base) if begun else None


def _asked(configs: Configs) -> dict[str, Any]:
    return {k: plain(v) for k, v in configs.flat().items() if k not in FREE_FLAGS}


def _as_given(configs: Configs) -> Configs:
    """Of the run with the settings that are given."""
    own = folder_of(configs) / "candidates" / _AS_GIVEN
    return candidates.changed(configs, {"select": "none", "workdir": str(own), "inspection": False})


def _hand_over(configs: Configs) -> None:
    """Copies the best run to where the run was asked for, under the flags that made it.

    The summary comes last: where it is, all is there.
    """
    folder = folder_of(configs)
    ranked = files.read_json(folder / NAME, "workdir")["candidates"]
    best = folder / "candidates" / pathlib.Path(ranked[0]["folder"]).name
    shutil.copytree(best, folder, ignore=_NOT_COPIED, dirs_exist_ok=True)
    manifest = files.read_json(best / "manifest.json", "workdir")
    manifest["flags"] |= {"workdir": configs.run.workdir, "inspection": configs.run.inspection}
    summary = files.read_json(best / "summary.json", "workdir")
    summary["export"] = str(folder / "export")
    write_json(folder / "manifest.json", manifest)
    write_json(folder / "export" / "manifest.json", manifest)
    write_json(folder / "summary.json", summary)
