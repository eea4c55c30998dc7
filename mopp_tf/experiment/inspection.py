"""What MOPP's models, pruning and candidates look like; see `offline_tf.inspection.inspect_stage`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mopp_tf import algorithm
from mopp_tf.experiment.configs import from_manifest
from mopp_tf.experiment.data import load_data
from mopp_tf.experiment.restore import load, make_planner
from mopp_tf.mbop import learning
from mopp_tf.mbop.mbop_planner import MbopPlanner
from mopp_tf.models.dynamics import DynamicsModel
from mopp_tf.planning.decision import Decision
from mopp_tf.planning.planner import Planner
from offline_tf import tasks
from offline_tf.config.shared_knobs import InspectConfig
from offline_tf.inspection import figures, inspect_stage
from offline_tf.inspection.measures import Prediction, Rows, View, compiled
from offline_tf.models import compilation, learned_task
from offline_tf.numerics import seeds
from offline_tf.pipeline import inspecting, opening
from offline_tf.run_folder.record import RunRecord
from offline_tf.tasks import closed_form
from offline_tf.types import Array, TaskSpec, Tensor, Transitions

DECISIONS = 4


def view(
    task: TaskSpec,
    dynamics: DynamicsModel,
    unit: Array,
    limit: float,
    uncertainty_units: str,
) -> View:
    """The dynamics models and the pruning limit.

    Args:
      task: bounds and names.
      dynamics: the models.
      unit: [S], of the normalised targets.
      limit, uncertainty_units: of the pruning.
    """
    middle = 0.5 * (task.action_high + task.action_low)
    half = 0.5 * (task.action_high - task.action_low)
    predict = dynamics.bind()

    def bounded(actions: Tensor) -> Tensor:
        return (tf.clip_by_value(actions, task.action_low, task.action_high) - middle) / half

    def look(states: Tensor, actions: Tensor) -> Prediction:
        outputs = predict(states, bounded(actions))
        every = dynamics.next_states(states, outputs)  # [K, B, S]
        return Prediction(
            closed_form.with_the_past_in_units(task, states, bounded(actions), every),
            dynamics.uncertainty(outputs, uncertainty_units),
        )

    def spread(states: Tensor, actions: Tensor) -> Tensor:
        return dynamics.std(states, bounded(actions), tf.constant([0, 1])) * unit

    return View(
        compiled(look, task),
        limit,
        task.observation_names,
        compiled(spread, task) if dynamics.has_densities else None,
    )


def inspect(
    task: TaskSpec,
    *,
    data: Transitions,
    prepared: algorithm.Prepared,
    learned: algorithm.Learned | learning.MbopLearned,
    made: Planner | MbopPlanner,
    decide: Callable[[Tensor, Tensor, Tensor], Decision],
    count: int,
    seed: int,
    record: RunRecord,
    others: dict[str, tuple[Array, Array]] | None = None,
) -> dict[str, float]:
    """Looks at the models and candidates of a run; see `offline_tf.inspection.inspect_stage.inspect`.

    Args:
      task, data, prepared, learned, seed, record, others: of the run.
      made: the planner.
      decide: its `decide` as a graph, traced for `count` environments.
      count: at least 1.
    """
    rows = Rows(data.observations, data.actions, data.next_observations)
    episodes = inspect_stage.load(record.folder, "episodes")
    paths = [("planned", episodes["observations"])] if episodes else []
    numbers = inspect_stage.inspect(
        view(
            task,
            learned.models.dynamics,
            prepared.normalizer.targets.scale[:-1],
            made.limit if isinstance(made, Planner) else float("inf"),
            made.knobs.uncertainty_units,
        ),
        task=task,
        rows=rows,
        bounds=data.predictable_bounds(),
        split=prepared.dynamics_split,
        seed=seed,
        record=record,
        paths=paths,
        others=others,
    )
    _candidates(task, data=data, planner=made, decide=decide, count=count, seed=seed, record=record)
    return numbers


def _candidates(
    task: TaskSpec,
    *,
    data: Transitions,
    planner: Planner | MbopPlanner,
    decide: Callable[[Tensor, Tensor, Tensor], Decision],
    count: int,
    seed: int,
    record: RunRecord,
) -> None:
    """Keeps the candidates of first decisions in a few states: starts, middles, ends of episodes."""
    bounds = data.episode_bounds()
    wanted = min(DECISIONS, count)
    bounds = bounds[np.linspace(0, len(bounds) - 1, wanted).astype(np.int64)]
    rows = (bounds[:, 0] + np.linspace(0.0, 0.9, wanted) * np.diff(bounds)[:, 0]).astype(np.int64)
    observations = tf.constant(data.observations[np.resize(rows, count)])
    decision = decide(
        observations,
        compilation.function(planner.initial_plan)(observations),
        seeds.stateless(seed, "inspection", 0),
    )
    arrays = {
        "names": np.array(task.observation_names),
        "titles": np.array([f"step {row - start}" for row, start in zip(rows, bounds[:, 0])]),
        "states": decision.states[:wanted].numpy(),
        "keep": decision.keep[:wanted].numpy(),
        "weights": decision.weights[:wanted].numpy(),
        "returns": decision.returns[:wanted].numpy(),
    }
    record.arrays("candidates", arrays)
    record.image("candidates", figures.png(inspect_stage.draw_candidates(arrays)))


def inspect_again(record: RunRecord, config: InspectConfig, threads: int) -> dict[str, float]:
    """Looks at the models and candidates of a finished run again.

    Args:
      record: of the run.
      config: the data beside the run's own, and where data are made.
      threads: of simulators that make data.

    Raises:
      UserError: the models are not fitted yet, or the data are not what they were.
    """
    configs = from_manifest(record.manifest)
    configs = configs._replace(run=inspecting.with_data_dir(configs.run, config.data_dir))
    run = configs.run
    task = learned_task.of_run(tasks.get(run.env, run.simulator), run.seed, record)
    learned = load(configs, task, record)
    data, _ = load_data(configs, task, threads)
    opening.check_same(record, data)
    planner = make_planner(task, configs=configs, learned=learned)
    numbers = inspect(
        task=task,
        data=data,
        prepared=algorithm.prepare(
            task, data=data, knobs=configs.knobs, seed=run.seed, record=record, models_from=record
        ),
        learned=learned,
        made=planner,
        decide=compilation.function(planner.decide),
        count=DECISIONS,
        seed=run.seed,
        record=record,
        others=inspecting.pairs_beside(config, run, task, threads),
    )
    return inspecting.keep(record, numbers)
