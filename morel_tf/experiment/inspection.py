"""What MOReL's models, detector and planned paths look like.

See `offline_tf.inspection.inspect_stage`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from morel_tf import algorithm
from morel_tf.experiment.configs import from_manifest
from morel_tf.experiment.data import load_data
from morel_tf.models import usad
from morel_tf.planning.pessimistic_mdp import RollOut
from offline_tf import tasks
from offline_tf.config.shared_knobs import InspectConfig
from offline_tf.datasets.quality import checks
from offline_tf.inspection import inspect_stage
from offline_tf.inspection.measures import Prediction, Rows, View, compiled
from offline_tf.models import gaussian_ensemble
from offline_tf.models.gaussian_ensemble import GaussianEnsemble
from offline_tf.pipeline import inspecting, opening
from offline_tf.run_folder.record import RunRecord
from offline_tf.tasks import closed_form
from offline_tf.types import Array, TaskSpec, Tensor, Transitions, UserError

_PATHS = 4
_TIMES = 5


def view(
    task: TaskSpec, ensemble: GaussianEnsemble, weights: Array, calibration: usad.Calibration
) -> View:
    """The ensemble and a detector."""
    predict = ensemble.bind()
    unit = ensemble.deltas.scale * ensemble.mask

    def look(states: Tensor, actions: Tensor) -> Prediction:
        outputs = predict(states, actions)
        every = ensemble.next_states(states, ensemble.means(outputs))  # [M, B, S]
        bounded = tf.clip_by_value(actions, task.action_low, task.action_high)
        return Prediction(
            closed_form.with_the_past(task, states, bounded, every),
            usad.disagreement_of(ensemble, outputs, weights),
        )

    def spread(states: Tensor, actions: Tensor) -> Tensor:
        return ensemble.noise(predict(states, actions)) * unit

    limit, names = calibration.threshold, task.observation_names
    return View(compiled(look, task), limit, names, compiled(spread, task))


def path_keeper(record: RunRecord, iterations: int) -> Callable[[RollOut, int], None]:
    """Keeps a few paths at the first iteration and at every fifth of the rest, for the map."""
    wanted = {1, *(max(iterations * part // _TIMES, 1) for part in range(1, _TIMES + 1))}

    def keep(block: RollOut, iteration: int) -> None:
        if iteration in wanted:
            count = block.valid.shape[1]
            chosen = np.linspace(0, count - 1, min(count, _PATHS)).astype(np.int64)
            observations = block.observations.numpy()[:, chosen]
            observations = np.where(block.valid.numpy()[:, chosen, None], observations, np.nan)
            record.arrays(f"paths-{iteration:06d}", {"observations": observations.swapaxes(0, 1)})

    return keep


def _kept_paths(record: RunRecord) -> list[tuple[str, Array]]:
    paths = []
    for file in sorted((record.folder / "inspection").glob("paths-*.npz")):
        iteration = int(file.stem.removeprefix("paths-"))
        observations = inspect_stage.load(record.folder, file.stem)["observations"]
        paths.append((f"iteration {iteration}", observations))
    return paths


def inspect(
    task: TaskSpec,
    *,
    data: Transitions,
    prepared: algorithm.Prepared,
    seen: View,
    seed: int,
    record: RunRecord,
    others: dict[str, tuple[Array, Array]] | None = None,
) -> dict[str, float]:
    """Looks at the models of a run; see `offline_tf.inspection.inspect_stage.inspect`."""
    return inspect_stage.inspect(
        seen,
        task=task,
        rows=Rows(prepared.states, data.actions, prepared.next_states),
        bounds=data.predictable_bounds(),
        split=prepared.split,
        seed=seed,
        record=record,
        paths=_kept_paths(record),
        others=others,
    )


def inspect_again(record: RunRecord, config: InspectConfig, threads: int) -> dict[str, float]:
    """Looks at the models of a finished run again.

    Args:
      record: of the run.
      config: the data beside the run's own, and where data are made.
      threads: of simulators that make data.

    Raises:
      UserError: the detector is not calibrated yet, or the data are not what they were.
    """
    configs = from_manifest(record.manifest)
    configs = configs._replace(run=inspecting.with_data_dir(configs.run, config.data_dir))
    run = configs.run
    task = tasks.get(run.env, run.simulator)
    record.check_task(task)
    if not record.stage("usad").complete:
        raise UserError(f"--workdir: the run in {record.folder} has no detector yet; continue it")
    data, _ = load_data(configs, task, threads)
    opening.check_same(record, data)
    prepared = algorithm.prepare(task, data, configs.knobs, run.seed, record)
    ensemble = gaussian_ensemble.load(task, configs.dynamics, run.seed, record)
    weights = usad.space_weights(task, ensemble, configs.usad.disagreement_space)

    def states_of(other: Transitions) -> Array:
        own = checks.with_own_states(other, task)
        return algorithm.prepare(task, own, configs.knobs, run.seed).states

    numbers = inspect(
        task=task,
        data=data,
        prepared=prepared,
        seen=view(task, ensemble, weights, usad.load(record)["planning"]),
        seed=run.seed,
        record=record,
        others=inspecting.pairs_beside(config, run, task, threads, states_of),
    )
    return inspecting.keep(record, numbers)
