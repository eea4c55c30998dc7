"""A finished MOReL run rebuilt from its folder, and exported again."""

from __future__ import annotations

import pathlib

import numpy as np

from morel_tf import algorithm
from morel_tf.experiment import export_controller
from morel_tf.experiment.configs import Configs, from_manifest
from morel_tf.experiment.export_controller import Controller
from morel_tf.models import usad
from morel_tf.planning import npg_planner, pessimistic_mdp, start
from morel_tf.planning.judged import Keeper
from offline_tf import tasks
from offline_tf.export import onnx_files, saved_model
from offline_tf.judging import judge
from offline_tf.models import gaussian_ensemble, learned_task
from offline_tf.numerics import seeds
from offline_tf.policies import cloning
from offline_tf.policies.gaussian import GaussianPolicy
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import TaskSpec

_SAMPLES = 256


def _new_policy(task: TaskSpec, configs: Configs, record: RunRecord) -> GaussianPolicy:
    record.check_task(task)
    inputs, _ = gaussian_ensemble.fitted_statistics(record)
    units = npg_planner.units_of(task, configs.planner, inputs)
    record.check_complete(start.STAGE)
    hidden = start.hidden_of(configs.planner, record.stage(start.STAGE))
    return npg_planner.new_policy(units, configs.planner, configs.run.seed, hidden)


def load_cloned(configs: Configs, task: TaskSpec, record: RunRecord) -> GaussianPolicy:
    """Rebuilds the behaviour-cloned policy of a finished run from its folder."""
    cloned = _new_policy(task, configs, record)
    cloning.load(cloned, record.stage(start.STAGE))
    return cloned


def load_policy(configs: Configs, record: RunRecord) -> GaussianPolicy:
    """Rebuilds a run's planned policy from its folder.

    Raises:
      UserError: planning is not finished.
    """
    record.check_complete("planning")
    task = tasks.get(configs.run.env)
    policy = _new_policy(task, configs, record)
    baseline = npg_planner.new_baseline(policy.units, configs.planner, 0)
    was_judged = record.stage(judge.STAGE).complete
    kept = Keeper(policy, configs.planner).variables if was_judged else []
    stage = record.stage("planning")
    stage.track([*policy.weights, *baseline.state, *kept])
    stage.restore()
    return policy


def controller_of(task: TaskSpec, learned: algorithm.Learned, knobs: algorithm.Knobs) -> Controller:
    """What a run hands over; behaviour cloning is the fallback."""
    return Controller(
        task,
        policy=learned.policy,
        ensemble=learned.ensemble,
        weights=learned.weights,
        calibrations=learned.calibrations,
        fallback=export_controller.fallback_of(task, "cloning", learned.cloned),
        pmdp=learned.pmdp,
        restored=knobs.dynamics.velocities == "restored",
    )


def load_controller(record: RunRecord, fallback: str = "cloning") -> Controller:
    """Rebuilds what a finished run hands over from its folder alone.

    Args:
      record: of the run.
      fallback: see `export_controller.fallback_of`.

    Raises:
      UserError: the run is not finished, or there is no such fallback.
    """
    configs = from_manifest(record.manifest)
    task = learned_task.of_run(tasks.get(configs.run.env), configs.run.seed, record)
    policy = load_policy(configs, record)
    cloned = load_cloned(configs, task, record)
    ensemble = gaussian_ensemble.load(task, configs.dynamics, configs.run.seed, record)
    weights = usad.space_weights(task, ensemble, configs.usad.disagreement_space)
    calibrations = usad.load(record)
    pmdp = pessimistic_mdp.make(
        task,
        physics=configs.run.physics,
        ensemble=ensemble,
        weights=weights,
        threshold=calibrations["planning"].threshold,
        least_reward=record.manifest["least_reward"],
        mean_reward=record.manifest.get("mean_reward", 0.0),  # HALT cost nothing later before it
        config=configs.pmdp,
    )
    safe = export_controller.fallback_of(task, fallback, cloned.numpy())
    restored = configs.dynamics.velocities == "restored"
    return Controller(
        task,
        policy=policy,
        ensemble=ensemble,
        weights=weights,
        calibrations=calibrations,
        fallback=safe,
        pmdp=pmdp,
        restored=restored,
    )


def export_again(
    record: RunRecord,
    folder: pathlib.Path,
    fallback: str = "cloning",
    lite: bool = False,
    *,
    onnx: bool = False,
    casadi: bool = False,
) -> float:
    """Exports a finished run to another folder, without its data.

    Args:
      record: of the run.
      folder: of the SavedModel.
      fallback: see `export_controller.fallback_of`.
      lite: whether to write LiteRT files too.
      onnx: whether to write ONNX files too; see `onnx_files`.
      casadi: whether to write the models for CasADi too; see `casadi_model`.

    Returns:
      The largest difference; see `export_controller.export_and_verify`.
    """
    controller = load_controller(record, fallback)
    configs = from_manifest(record.manifest)
    task = tasks.get(configs.run.env)
    inputs = controller.ensemble.inputs
    draws = seeds.generator(configs.run.seed, "export")
    spread = draws.standard_normal((_SAMPLES, task.state_dim + task.action_dim))
    samples = (inputs.shift + inputs.scale * spread).astype(np.float32)
    states, actions = np.split(samples, [task.state_dim], axis=1)
    error = export_controller.export_and_verify(
        controller, folder, states, task.clip_actions(actions), lite
    )
    if onnx:
        given = {"observation": states, "state": states, "action": task.clip_actions(actions)}
        error = max(error, onnx_files.write(folder, export_controller.ONNX_FILES, given))
    if casadi:
        error = max(error, controller.write_casadi(folder, states, task.clip_actions(actions)))
    saved_model.describe(folder, record.manifest | {"fallback": fallback})
    return error
