"""How a run of either algorithm begins: its data is read and checked, its folder opened."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import logging

from offline_tf.datasets.formats import d4rl
from offline_tf.datasets.quality import checks, overview
from offline_tf.reports import tensorboard
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import TaskSpec, Transitions, UserError


class Opened(NamedTuple):
    """A run that may begin, or go on: its folder, its data, their name, whose models it takes over."""

    record: RunRecord
    data: Transitions
    dataset: str
    reused: RunRecord | None


def open_run(
    folder: pathlib.Path,
    *,
    algorithm: str,
    flags: dict[str, Any],
    free_flags: tuple[str, ...],
    defaults: dict[str, Any],
    task: TaskSpec,
    load: Callable[[], tuple[Transitions, str]],
    reused_run: Callable[[Transitions, str], RunRecord | None],
) -> Opened:
    """Reads and checks the data, then opens the folder; bad input leaves it as it was.

    Args:
      folder, algorithm, flags, free_flags, defaults: see `RunRecord.create_or_continue`.
      task: that the data are of.
      load: reads or makes the data; returns them with their name.
      reused_run: (data, their hash) -> the run whose models are taken over, or None; raises
        UserError where the run cannot begin.

    Returns:
      An Opened; the data and their overview stand in the manifest and in TensorBoard.

    Raises:
      UserError: bad input.
    """
    began = time.monotonic()
    RunRecord.check_folder(folder, algorithm, flags, free_flags, defaults)
    data, name = load()
    findings = checks.before_training(data, task)
    data_hash = d4rl.content_hash(data)
    reused = reused_run(data, data_hash)
    record = RunRecord.create_or_continue(folder, algorithm, flags, free_flags, defaults)
    if record.manifest.setdefault("data_hash", data_hash) != data_hash:
        raise UserError(
            f"--workdir: {folder} was trained on other data ({record.manifest['data_hash']}, now "
            f"{data_hash}); choose another --workdir"
        )
    returns = float(data.episode_returns().mean())
    record.note_task(task)
    record.note_commit()
    record.note(dataset=name, data_hash=data_hash, behavior_return=returns)
    stage = record.stage("data")
    if not stage.complete:
        summary = overview.overview(data, task) | {"env": task.name}
        summary["findings"] = overview.as_json(findings)
        record.text("run/flags", tensorboard.as_table(record.manifest["flags"]))
        record.text("run/data", f"```\n{overview.in_words(summary, name)}\n```")
        stage.finish({"rows": len(data), "overview": summary}, time.monotonic() - began)
    logging.info(
        "%s: %d transitions, %d episodes, mean return %.1f",
        name,
        len(data),
        len(data.episode_bounds()),
        returns,
    )
    return Opened(record, data, name, reused)


def check_same(record: RunRecord, data: Transitions) -> None:
    """Checks that data are those that a run has learned from.

    Raises:
      UserError: they are not.
    """
    data_hash, trained_hash = d4rl.content_hash(data), record.manifest.get("data_hash")
    if data_hash != trained_hash:
        raise UserError(
            f"--workdir: {record.folder} was trained on other data ({trained_hash}, now {data_hash}); "
            "put the data set back where it was"
        )
