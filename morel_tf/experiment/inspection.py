"""What MOReL's models, detector and planned paths look like.

See `offline_tf.inspection.inspect_stage`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from morel_tf.algorithm import Prepared
from morel_tf.models import usad
from morel_tf.models.dynamics import DynamicsEnsemble
from morel_tf.planning.pessimistic_mdp import RollOut
from offline_tf.inspection import inspect_stage
from offline_tf.inspection.measures import Prediction, Rows, View, compiled
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, TaskSpec, Tensor, Transitions

_PATHS = 4
_TIMES = 5


def view(
    task: TaskSpec, ensemble: DynamicsEnsemble, weights: Array, calibration: usad.Calibration
) -> View:
    """The ensemble and a detector."""
    predict = ensemble.bind()
    unit = ensemble.deltas.scale * ensemble.mask

    def look(states: Tensor, actions: Tensor) -> Prediction:
        outputs = predict(states, actions)
        return Prediction(
            ensemble.next_states(states, ensemble.means(outputs)),
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
            seen = block.observations.numpy()[:, chosen]
            seen = np.where(block.valid.numpy()[:, chosen, None], seen, np.nan)
            record.arrays(f"paths-{iteration:06d}", {"observations": seen.swapaxes(0, 1)})

    return keep


def _kept_paths(record: RunRecord) -> list[tuple[str, Array]]:
    files = sorted((record.folder / "inspection").glob("paths-*.npz"))
    found = []
    for file in files:
        iteration = int(file.stem.removeprefix("paths-"))
        observations = inspect_stage.load(record.folder, file.stem)["observations"]
        found.append((f"iteration {iteration}", observations))
    return found


def inspect(
    task: TaskSpec,
    data: Transitions,
    prepared: Prepared,
    seen: View,
    seed: int,
    record: RunRecord,
    others: dict[str, tuple[Array, Array]] | None = None,
) -> dict[str, float]:
    """Looks at the models of a run; see `offline_tf.inspection.inspect_stage.inspect`."""
    return inspect_stage.inspect(
        seen,
        task,
        Rows(prepared.states, data.actions, prepared.next_states),
        prepared.bounds,
        prepared.split,
        seed,
        record,
        _kept_paths(record),
        others,
    )
