"""What an export says of a file of observations, row by row."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable

import numpy as np
from absl import logging

from offline_tf.export import loaded, prediction_files
from offline_tf.run_folder import files
from offline_tf.types import Array, UserError

_ROWS, _ROWS_PLANNED = 4096, 64


def load(path: str, guarded: bool) -> loaded.Deployed:
    """Loads an export.

    Args:
      path: a run folder, or an export.
      guarded: whether it has to have `act_guarded`.

    Raises:
      UserError: there is none, or it cannot guard.
    """
    try:
        model = loaded.Deployed(path)
    except UserError as error:
        raise UserError(f"--export: {error}") from None
    if guarded and "act_guarded" not in model.signatures:
        raise UserError(f"--guarded: the export in {model.folder} has no act_guarded")
    return model


def rows_per_call(model: loaded.Deployed) -> int:
    """4096 of a policy, 64 of a planner, whose rows take megabytes."""
    return _ROWS_PLANNED if "plan" in model.signatures else _ROWS


def predict_blocks(
    model: loaded.Deployed,
    blocks: Iterable[tuple[Array, Array | None]],
    output: pathlib.Path,
    *,
    source: str,
    guarded: bool,
    seed: int,
) -> int:
    """Writes one row for each observation.

    Args:
      model: the export.
      blocks: observations [n, S], and their times [n] in seconds where they have some.
      output: file to write; it appears when it is complete.
      source: what to name where there are none.
      guarded: see `predict`.
      seed: of MOPP's proposals; with it goes the number of the block's first row.

    Returns:
      Rows written.

    Raises:
      UserError: the blocks cannot be read, or have no rows.
    """
    action_names, total = model.interface.action_names, 0
    with (
        files.whole(output, f".{os.getpid()}.partial") as partial,
        prediction_files.writing(partial, output.suffix.lower(), action_names) as write,
    ):
        for rows, times in blocks:
            if len(rows):
                told = {} if times is None else {"time": times}
                write(told | predict(model, rows, guarded, (seed, total)))
                total += len(rows)
        if not total:
            raise UserError(f"--input: expected rows of observations, {source} has none")
    logging.info("%s: %d rows", output, total)
    return total


def predict(
    model: loaded.Deployed, rows: Array, guarded: bool, seed: tuple[int, int]
) -> dict[str, Array]:
    """Actions and verdicts for observations.

    Args:
      model: the export.
      rows: observations [B, S].
      guarded: of MOReL, whether the fallback acts where the policy's action is unknown.
      seed: of MOPP's proposals.

    Returns:
      "action" [B, A], the rest [B].
    """
    if "plan" in model.signatures:
        plan = model.call("initial_plan", observation=rows)["plan"]
        decision = model.call("plan", observation=rows, plan=plan, seed=np.array(seed, np.int32))
        del decision["plan"]
        disagreement = decision["disagreement"].reshape(len(rows), -1)  # [B, H]
        return decision | {"disagreement": disagreement.mean(axis=1)}
    if guarded:
        return model.call("act_guarded", observation=rows)
    action = model.call("serving_default", observation=rows)["action"]
    return {"action": action} | model.call("is_known", observation=rows, action=action)
