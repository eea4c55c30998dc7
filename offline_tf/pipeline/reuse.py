"""Models of another run, taken over: --dynamics_from and --models_from."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from offline_tf.run_folder.record import RunRecord
from offline_tf.types import TaskSpec, UserError


def different_knobs(theirs: Any, ours: Any) -> list[str]:
    """What two stage dataclasses of one type do not share, as words for `open_fitting`."""
    return [
        f"--{field.name} is {getattr(theirs, field.name)!r} there"
        for field in dataclasses.fields(ours)
        if getattr(theirs, field.name) != getattr(ours, field.name)
    ]


def open_run(folder: str, flag: str) -> RunRecord | None:
    """Opens the run that a flag names; None where it names none.

    Raises:
      UserError: there is no run.
    """
    return RunRecord.open_existing(pathlib.Path(folder), flag) if folder else None


def check_fits(
    other: RunRecord,
    flag: str,
    *,
    differences: Sequence[str],
    data_hash: str,
    task: TaskSpec,
    fits: Sequence[str],
) -> None:
    """Checks that a run's models were fitted as this run would fit them.

    Args:
      other: the run.
      flag: that named it, for the error.
      differences: what its algorithm and knobs do not share with this run, in words.
      data_hash: of this run's data.
      task: of this run, as it was declared.
      fits: stages whose models are taken over.

    Raises:
      UserError: they were not.
    """
    problems = list(differences)
    if other.manifest.get("data_hash") != data_hash:
        problems.append("its data differs")
    if changed := other.task_changes(task):
        problems.append(f"its task has other {', '.join(changed)}")
    if not all(other.stage(name).complete for name in fits):
        problems.append("its models are not fitted yet")
    if problems:
        raise UserError(f"--{flag}: {other.folder} does not fit ({'; '.join(problems)})")
