"""A finished MOPP or MBOP run rebuilt from its folder, and exported again."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from mopp_tf import algorithm, config, control_config, objectives, planner_config
from mopp_tf.experiment import export_planner
from mopp_tf.experiment.configs import Configs, from_manifest
from mopp_tf.mbop import learning, mbop_planner
from mopp_tf.models.rows import RewardScale
from mopp_tf.planning.planner import Planner
from offline_tf import tasks
from offline_tf.export import onnx_files, saved_model
from offline_tf.models import learned_task, networks
from offline_tf.numerics import seeds
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import TaskSpec, UserError

AnyLearned = algorithm.Learned | learning.MbopLearned
_SAMPLES = 64


def reward_scale_of(learned: AnyLearned) -> RewardScale:
    """The units of rewards that the models work in."""
    return learned.scale if isinstance(learned, algorithm.Learned) else learned.prepared.scale


def load(configs: Configs, task: TaskSpec, record: RunRecord) -> AnyLearned:
    """Rebuilds what a run has fitted from its folder alone.

    Raises:
      UserError: the run is not finished.
    """
    record.check_task(task)
    read = algorithm.load if configs.run.algorithm == "mopp" else learning.load
    return read(task, configs.knobs, record)


def make_planner(
    task: TaskSpec,
    *,
    configs: Configs,
    learned: AnyLearned,
    control: control_config.ControlConfig | None = None,
    reward: objectives.UserFunction | None = None,
    constraint: objectives.UserFunction | None = None,
) -> export_planner.AnyPlanner:
    """Builds the planner of a run, with another objective where `control` or functions say so.

    Where the judge chose the clone, another objective and other knobs are for a planner that plans.

    Raises:
      UserError: see `objectives.make` and `control_config.changed_planner`; or another limit is
        asked for by a quantile, which only the data could tell, or another horizon of MBOP's value.
    """
    settings = settings_of(
        task,
        configs=configs,
        trained=learned.planner if isinstance(learned, algorithm.Learned) else configs.planner,
        scale=reward_scale_of(learned),
        control=control,
        reward=reward,
        constraint=constraint,
    )
    knobs, objective = settings.knobs, settings.objective
    dtype = networks.product_dtype(knobs.planner_precision)
    if isinstance(learned, learning.MbopLearned):
        return mbop_planner.MbopPlanner(
            task,
            learned=learned,
            knobs=planner_config.for_mbop(knobs, settings.mbop),
            mbop=settings.mbop,
            objective=objective,
            dtype=dtype,
        )
    if knobs.plan == "never":
        knobs = planner_config.for_clone(knobs)
    return Planner(
        task,
        models=learned.models,
        knobs=knobs,
        limit=settings.limit or learned.limit,
        objective=objective,
        dtype=dtype,
    )


class Settings(NamedTuple):
    """What a run's planner is told, with its `control`.

    Attributes:
      knobs: of the planner.
      mbop: of MBOP's.
      objective: what it plans for.
      limit: L, where `control` asks for another than the run's; else None.
    """

    knobs: config.PlannerConfig
    mbop: config.MbopConfig
    objective: objectives.Objective
    limit: float | None


def settings_of(
    task: TaskSpec,
    *,
    configs: Configs,
    trained: config.PlannerConfig,
    scale: RewardScale,
    control: control_config.ControlConfig | None = None,
    reward: objectives.UserFunction | None = None,
    constraint: objectives.UserFunction | None = None,
) -> Settings:
    """Checks all that a planner is asked for; needs no models.

    Args:
      task: of the run.
      configs: of the run.
      trained: the planner's knobs as the run's rules and judge have set them.
      scale: the units of rewards that the models work in.
      control, reward, constraint: as in `make_planner`, which raises what this raises.
    """
    control = control or control_config.ControlConfig()
    of_mopp = configs.run.algorithm == "mopp"
    asked = (control.reward, control.constraint, control.planner, reward, constraint)
    if of_mopp and trained.plan == "never" and any(asked):  # the clone would heed none of them
        trained = dataclasses.replace(trained, plan="always")
    knobs, of_mbop = control_config.changed_planner(
        trained, configs.mbop, control.planner, configs.run.algorithm
    )
    objective = objectives.make(
        task, scale, control, reward, constraint, own=_own_reward(task, knobs, configs)
    )
    fitted = configs.mbop.mbop_horizon
    if not of_mopp and of_mbop.mbop_horizon != fitted and knobs.terminal_value:
        raise UserError(
            f"--planner: the value beyond the horizon was fitted for mbop_horizon={fitted}, got "
            f"{of_mbop.mbop_horizon}; give terminal_value=false as well, or train with it"
        )
    limit = _changed_limit(configs.planner, knobs) if of_mopp else None
    return Settings(knobs, of_mbop, objective, limit)


def _own_reward(
    task: TaskSpec, knobs: config.PlannerConfig, configs: Configs
) -> objectives.Reward | None:
    """The task's reward where it takes the place of the models'.

    Raises:
      UserError: there is none; or what a rule decides after the fits is asked for again.
    """
    if configs.run.algorithm == "mbop" or knobs.planner_reward == "models":
        return None
    own = objectives.reward_of(task, configs.run.physics)
    if knobs.planner_reward == "auto" or own is None:
        raise UserError(
            "--planner: expected planner_reward=models"
            f"{'' if own is None else ' or task'}, got {knobs.planner_reward}"
        )
    return own


def _changed_limit(trained: config.PlannerConfig, now: config.PlannerConfig) -> float | None:
    """L where the planner's knobs ask for another one than was set after the fits."""
    names = ("uncertainty_quantile", "uncertainty_units", "uncertainty_limit")
    changed = [name for name in names if getattr(trained, name) != getattr(now, name)]
    # A fixed L in other units, or beside another quantile, would go on as if nothing had been said.
    if changed and (not now.uncertainty_limit or "uncertainty_limit" not in changed):
        raise UserError(
            f"--planner: {changed[0]} decides about L, which is set when the models are fitted; give "
            "another uncertainty_limit=L as well"
        )
    return now.uncertainty_limit if changed else None


def export_again(
    record: RunRecord,
    folder: pathlib.Path,
    control: control_config.ControlConfig,
    lite: bool = False,
    onnx: bool = False,
) -> tuple[float, dict[str, float]]:
    """Exports a finished run to another folder, without its data.

    Args:
      record: of the run.
      folder: of the export.
      control: another objective.
      lite: whether to write LiteRT files too, where the planner is MOPP's.
      onnx: the same of ONNX files; see `onnx_files`.

    Returns:
      The largest difference from the live planner, and those of LiteRT; see `export_planner`.
    """
    configs = from_manifest(record.manifest)
    task = learned_task.of_run(tasks.get(configs.run.env), configs.run.seed, record)
    planner = make_planner(
        task, configs=configs, learned=load(configs, task, record), control=control
    )
    units = algorithm.load_units(record)
    states = units.normalizer.states
    spread = seeds.generator(configs.run.seed, "export").standard_normal((_SAMPLES, task.state_dim))
    samples = (states.shift + states.scale * spread).astype(np.float32)
    error = export_planner.export_and_verify(planner, units.scale, folder, samples)
    differences: dict[str, float] = {}
    if lite and isinstance(planner, Planner):
        differences = export_planner.write_lite(planner, folder, samples)
    if onnx and isinstance(planner, Planner):
        done = planner.initial_plan(samples).numpy()[:, 0]
        middle, half = (0.5 * (task.action_high + sign * task.action_low) for sign in (1.0, -1.0))
        given = {"observation": samples, "state": samples}
        given["action"] = task.clip_actions(middle + half * done)
        error = max(error, onnx_files.write(folder, export_planner.ONNX_FILES, given))
    saved_model.describe(folder, record.manifest | {"control": dataclasses.asdict(control)})
    return error, differences
