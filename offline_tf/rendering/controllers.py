"""What acts in a film: an export of either algorithm, or a policy of another kind."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from offline_tf.export import loaded
from offline_tf.policies import foreign
from offline_tf.policies.gaussian import NumpyPolicy
from offline_tf.rendering.episodes import JudgedAction
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, TaskSpec, UserError


class Controller(NamedTuple):
    """What acts in an episode.

    Attributes:
      act: observation [S] -> what is done.
      begin_episode: to be called before each episode.
    """

    act: Callable[[Array], JudgedAction]
    begin_episode: Callable[[], None]


def recorded_flags(export: pathlib.Path, record: RunRecord | None) -> dict[str, Any]:
    """The flags of the run that is filmed, as far as files tell.

    Args:
      export: what is filmed; where there is no record, a manifest is looked for beside it.
      record: of the run, or None.
    """
    if record is not None:
        return record.manifest["flags"]
    for folder in (export, export / "export", export.parent):
        with contextlib.suppress(OSError, ValueError, KeyError):
            return json.loads((folder / "manifest.json").read_text())["flags"]
    return {}


def load(path: pathlib.Path, task: TaskSpec, seed: int, guarded: bool) -> Controller:
    """Loads an export, or a policy of another kind.

    Args:
      path: run folder, export, or policy file.
      task: what it has to fit.
      seed: of MOPP's proposals.
      guarded: whether MOReL's fallback acts where the policy's action is unknown.

    Raises:
      UserError: it cannot be read, or does not fit the task.
    """
    inner = path / "export" if (path / "export").is_dir() else path
    is_model = inner.is_file() or (inner / "saved_model.pb").exists()
    if is_model and not (inner / loaded.INTERFACE).exists():
        return _without_detector(inner, task, guarded)
    model = loaded.Deployed(path)
    wanted, got = loaded.Interface.of(task), model.interface
    if (len(wanted.observation_names), len(wanted.action_names)) != (
        len(got.observation_names),
        len(got.action_names),
    ):
        raise UserError(f"--export: {model.folder} is of {got.task}, not of --env={task.name}")
    if guarded and "act_guarded" not in model.signatures:
        raise UserError(f"--guarded: the export in {model.folder} has no act_guarded")
    if "plan" in model.signatures:
        planner = loaded.Planner(path, seed)

        def plan(observation: Array) -> JudgedAction:
            action = planner.act(observation)
            return JudgedAction(action, f"kept {100 * float(planner.decision['kept_share']):.0f} %")

        return Controller(plan, planner.reset)

    def act(observation: Array) -> JudgedAction:
        rows = observation[None]
        outputs = model.call("act_guarded" if guarded else "serving_default", observation=rows)
        if not guarded and "is_known" in model.signatures:
            outputs |= model.call("is_known", observation=rows, action=outputs["action"])
        known = bool(outputs["known"][0]) if "known" in outputs else None
        verdict = {True: "known", False: "unknown", None: ""}[known]
        return JudgedAction(outputs["action"][0], verdict, known is False)

    return Controller(act, lambda: None)


def _without_detector(path: pathlib.Path, task: TaskSpec, guarded: bool) -> Controller:
    if guarded:
        raise UserError(f"--guarded: {path} holds no detector")
    try:
        policy, _ = foreign.load(path, task)
    except UserError as error:
        line = str(error).replace("--policy", "--export")
        raise UserError(
            f"{line}; exports of older runs are made again with `./run.sh export` or `mopp-export`"
        ) from None
    generator = np.random.default_rng(0)

    def act(observation: Array) -> JudgedAction:
        rows = observation[None]
        if isinstance(policy, NumpyPolicy):
            return JudgedAction(policy.mean(rows)[0])
        return JudgedAction(policy.act(rows, generator, False)[0])

    return Controller(act, lambda: None)
