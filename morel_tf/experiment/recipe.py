"""A MOReL run on one page: its stages, from data to summary."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from absl import logging

from morel_tf import algorithm
from morel_tf.experiment import data, evaluation, export_controller, inspection, panels
from morel_tf.experiment.configs import Configs, folder_of
from morel_tf.experiment.restore import controller_of
from morel_tf.experiment.summary import summarize
from offline_tf.export import saved_model
from offline_tf.pipeline import run as pipeline
from offline_tf.pipeline.run import Experiment

_ROWS_VERIFIED = 256

MOREL: pipeline.Algorithm[Configs] = pipeline.Algorithm(
    name=lambda configs: "morel",
    module="morel_tf.train",
    folder_of=folder_of,
    check=data.check_flags,
    load_data=data.load_data,
    reused_run=data.reused_run,
    fits_something=lambda configs, reused: reused is None,
    precision=lambda configs: configs.dynamics.precision,
    fits=("dynamics",),
    compiled="planning",
    learns_reward=True,
    charts=panels.CHARTS,
    report=panels.LAYOUT,
)


def run(configs: Configs) -> dict[str, Any]:
    """Runs, or continues, a whole MOReL run; a stage that is complete is read, not done again.

    Args:
      configs: all knobs.

    Returns:
      The summary, as in summary.json.

    Raises:
      UserError: bad input; the run folder is as before.
    """
    experiment = within_the_time_limit(pipeline.begin(MOREL, configs))
    rewards = experiment.data.rewards
    experiment.record.note(
        least_reward=float(rewards.min()), mean_reward=float(rewards.mean(dtype=np.float64))
    )
    if words := data.halt_out_of_scale(configs, experiment.data):
        logging.warning("--halt_offset: %s", words)
    prepared = algorithm.prepare(
        experiment.task,
        experiment.data,
        experiment.configs.knobs,
        configs.run.seed,
        experiment.reused,
    )
    learned = learn(experiment, prepared)
    measured = experiment.once(
        "evaluation", lambda stage: evaluation.evaluate_final(experiment, learned, stage)
    )
    experiment.once("export", lambda _: export(experiment, learned))
    if configs.run.inspection:
        experiment.once("inspection", lambda _: inspect(experiment, prepared, learned))
    return summarize(experiment, learned, measured)


def within_the_time_limit(experiment: Experiment[Configs]) -> Experiment[Configs]:
    """Ends the P-MDP's paths where the task's episodes end."""
    configs, limit = experiment.configs, experiment.task.max_episode_steps
    if configs.pmdp.horizon <= limit:
        return experiment
    logging.info("paths end with the task's time limit, after %d steps", limit)
    shorter = dataclasses.replace(configs.pmdp, horizon=limit)
    return experiment._replace(configs=configs._replace(pmdp=shorter))


def learn(experiment: Experiment[Configs], prepared: algorithm.Prepared) -> algorithm.Learned:
    """The paper's algorithm; its fits and its planning are stages of their own."""
    configs, record = experiment.configs, experiment.record
    return algorithm.morel(
        task=experiment.task,
        physics=configs.run.physics,
        data=experiment.data,
        prepared=prepared,
        knobs=configs.knobs,
        seed=configs.run.seed,
        record=record,
        evaluate=evaluation.while_planning(experiment),
        keep_paths=inspection.path_keeper(record, configs.planner.iterations),
        dynamics_from=experiment.reused,
    )


def export(experiment: Experiment[Configs], learned: algorithm.Learned) -> dict[str, float]:
    """Writes the SavedModel and verifies it on rows of the data."""
    data, folder = experiment.data, experiment.record.folder / "export"
    controller = controller_of(experiment.task, learned, experiment.configs.knobs)
    rows = np.linspace(0, len(data) - 1, num=min(len(data), _ROWS_VERIFIED)).astype(np.int64)
    error = export_controller.export_and_verify(
        controller, folder, data.observations[rows], data.actions[rows]
    )
    saved_model.describe(folder, experiment.record.manifest)
    return {"largest_difference": error}


def inspect(
    experiment: Experiment[Configs], prepared: algorithm.Prepared, learned: algorithm.Learned
) -> dict[str, float]:
    """Looks at what the models know."""
    task = experiment.task
    view = inspection.view(
        task, learned.ensemble, learned.weights, learned.calibrations["planning"]
    )
    return inspection.inspect(
        task=task,
        data=experiment.data,
        prepared=prepared,
        seen=view,
        seed=experiment.configs.run.seed,
        record=experiment.record,
    )
