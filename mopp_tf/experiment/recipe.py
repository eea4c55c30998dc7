"""A MOPP or MBOP run on one page: its stages, from data to summary."""

from __future__ import annotations

from typing import Any

import numpy as np

from mopp_tf import algorithm, objectives
from mopp_tf.experiment import data, evaluation, export_planner, inspection, panels
from mopp_tf.experiment.configs import Configs, fits_q_again, folder_of, from_manifest
from mopp_tf.experiment.export_planner import AnyPlanner
from mopp_tf.experiment.restore import AnyLearned, make_planner
from mopp_tf.experiment.summary import summarize
from mopp_tf.mbop import learning
from offline_tf.export import saved_model
from offline_tf.judging import judge as judging
from offline_tf.judging.judge import Judge
from offline_tf.models import compilation
from offline_tf.pipeline import run as pipeline
from offline_tf.pipeline.run import Experiment
from offline_tf.run_folder.record import RunRecord

_ROWS_VERIFIED = 64


def _fits_something(configs: Configs, reused: RunRecord | None) -> bool:
    return reused is None or fits_q_again(configs, from_manifest(reused.manifest))


MOPP: pipeline.Algorithm[Configs] = pipeline.Algorithm(
    name=lambda configs: configs.run.algorithm,
    module="mopp_tf.train",
    folder_of=folder_of,
    check=data.check_flags,
    load_data=data.load_data,
    reused_run=data.reused_run,
    fits_something=_fits_something,
    precision=lambda configs: configs.model.precision,
    fits=data.FITS,
    compiled="evaluation",
    learns_reward=False,  # the dynamics models learn it; see `run`
    charts=panels.CHARTS,
    report=panels.LAYOUT,
)


def run(configs: Configs) -> dict[str, Any]:
    """Runs, or continues, a whole MOPP or MBOP run; a stage that is complete is read.

    Args:
      configs: all knobs.

    Returns:
      The summary, as in summary.json.

    Raises:
      UserError: bad input; the run folder is as before.
    """
    experiment, prepared = begin(configs)
    learned = learn(experiment, prepared)
    planner = make_planner(experiment.task, configs=configs, learned=learned)
    decide = compilation.compiled(planner.decide, in_parts=True)
    measured = experiment.once(
        "evaluation",
        lambda stage: evaluation.evaluate_final(experiment, learned, planner, decide, stage),
    )
    experiment.once("export", lambda _: export(experiment, prepared, planner))
    if configs.run.inspection:
        experiment.once(
            "inspection", lambda _: inspect(experiment, prepared, learned, planner, decide)
        )
    return summarize(experiment, measured, prepared.judge.error if prepared.judge else None)


def begin(configs: Configs) -> tuple[Experiment[Configs], algorithm.Prepared]:
    """Opens the run and its data, fits the judge, chooses the episodes to clone."""
    judges = bool(configs.knobs.judge.judge_members)
    # The judge's models predict states alone.
    experiment = pipeline.begin(MOPP._replace(learns_reward=judges), configs)
    prepared = algorithm.prepare(
        experiment.task,
        data=experiment.data,
        knobs=configs.knobs,
        seed=configs.run.seed,
        record=experiment.record,
        models_from=experiment.reused,
        judge=fit_judge(experiment) if judges else None,
        reward=objectives.reward_of(experiment.task, configs.run.physics),
    )
    return experiment, prepared


def fit_judge(experiment: Experiment[Configs]) -> Judge:
    """Models that nothing is planned in: they compare behaviours and planners."""
    return judging.fit_or_load(
        experiment.task,
        physics=experiment.configs.run.physics,
        data=experiment.data,
        config=experiment.configs.judge,
        seed=experiment.configs.run.seed,
        record=experiment.record,
    )


def learn(experiment: Experiment[Configs], prepared: algorithm.Prepared) -> AnyLearned:
    """What is fitted before the first decision; each fit is a stage of its own."""
    configs, task, _, _, record, reused, _ = experiment
    if configs.run.algorithm == "mbop":
        return learning.learn(
            task,
            prepared=prepared,
            knobs=configs.knobs,
            seed=configs.run.seed,
            record=record,
            models_from=reused,
        )
    q_again = reused is not None and _fits_something(configs, reused)
    return algorithm.learn(
        task,
        prepared=prepared,
        knobs=configs.knobs,
        seed=configs.run.seed,
        record=record,
        models_from=reused,
        q_from=None if q_again else reused,
    )


def export(
    experiment: Experiment[Configs], prepared: algorithm.Prepared, planner: AnyPlanner
) -> dict[str, float]:
    """Writes the SavedModel and verifies it on rows of the data."""
    folder, observations = experiment.record.folder / "export", experiment.data.observations
    count = len(observations)
    rows = np.linspace(0, count - 1, num=min(count, _ROWS_VERIFIED)).astype(np.int64)
    error = export_planner.export_and_verify(planner, prepared.scale, folder, observations[rows])
    saved_model.describe(folder, experiment.record.manifest)
    return {"largest_difference": error}


def inspect(
    experiment: Experiment[Configs],
    prepared: algorithm.Prepared,
    learned: AnyLearned,
    planner: AnyPlanner,
    decide: evaluation.Graph,
) -> dict[str, float]:
    """Looks at what the models know, and at candidates of some decisions."""
    run = experiment.configs.run
    return inspection.inspect(
        task=experiment.task,
        data=experiment.data,
        prepared=prepared,
        learned=learned,
        made=planner,
        decide=decide,
        count=run.eval_episodes,
        seed=run.seed,
        record=experiment.record,
    )
