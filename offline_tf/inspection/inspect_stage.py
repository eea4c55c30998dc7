"""The stage "inspection": looks at fitted dynamics models, keeps arrays, pictures and numbers."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from matplotlib.figure import Figure

from offline_tf.inspection import figures, measures
from offline_tf.inspection.measures import Rows, View
from offline_tf.numerics import seeds
from offline_tf.numerics.holdout import Split
from offline_tf.run_folder import files
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, TaskSpec

STAGE = "inspection"
_PAIRS = 5000
_SPREAD_PAIRS = 2000
_POINTS = 4000
_OPEN_LOOPS = 64
_STEPS = 50

CAPTIONS = {
    "errors": "How far the models are off after one step, on episodes that they were not fitted on.",
    "open_loop": "Recorded actions, predicted states: how soon each member leaves the recording.",
    "calibration": "Whether the models' intervals hold what they promise. (A spread that is fixed for "
    "all states is the root mean square on held-out rows: errors with long tails lie within it more "
    "often.)",
    "separation": "Disagreement in held-out data, and in the same states with other actions.",
    "known_map": "Where the detector knows what happens. White: states of the data.",
    "candidates": "What the planner thought of in some states of the data.",
}


def inspect(
    view: View,
    *,
    task: TaskSpec,
    rows: Rows,
    bounds: Array,
    split: Split,
    seed: int,
    record: RunRecord,
    paths: Sequence[tuple[str, Array]] = (),
    others: dict[str, tuple[Array, Array]] | None = None,
) -> dict[str, float]:
    """Looks at the models; writes inspection/models.npz and its pictures, logs the numbers.

    Args:
      view: the models.
      task: names and bounds.
      rows: all of the data.
      bounds: [E, 2] of the episodes, as far as next states are known.
      split: which rows the models were not fitted on; of those with a known next state.
      seed: of random actions.
      record: the run folder.
      paths: (label, [.., n, S] states) for the map.
      others: see `measures.separation`.

    Returns:
      Numbers: "error", "drift/K", "coverage_90", "auroc/GROUP", "known/GROUP".
    """
    stage = record.stage(STAGE)
    stage.restart()
    if not len(split.held_out):
        logging.warning(
            "inspection: no rows are held out; it judges rows that the models have seen"
        )
    # Of what the task says of the next state nothing is to be judged.
    own = np.flatnonzero([i < 0 for i in task.becomes or (-1,) * task.state_dim])
    arrays: dict[str, Any] = {"names": np.array(view.names)[own], "limit": np.array(view.limit)}
    judged = rows.at(split.judged(_PAIRS))
    predictions = measures.predict(view, judged.states, judged.actions)
    arrays |= {k: v[..., own] for k, v in measures.errors(judged, predictions).items()}
    numbers = {"error": float(np.sqrt(np.mean(arrays["error"] ** 2)))}
    if view.spread is not None:
        subset = judged.at(measures.spread_out(np.arange(len(judged.states)), _SPREAD_PAIRS))
        predicted_states = measures.predict(view, subset.states, subset.actions).next_states
        std = view.spread(tf.constant(subset.states), tf.constant(subset.actions)).numpy()
        found = measures.calibration(subset, predicted_states, std)
        arrays |= found | {"coverage": found["coverage"][:, own]}
        numbers["coverage_90"] = float(arrays["coverage"][arrays["level"] == 0.9].mean())

    held_out = split.held_out if len(split.held_out) else split.train
    steps = measures.open_loop_steps(bounds, held_out, _STEPS)
    starts = measures.open_loop_starts(bounds, held_out, steps, _OPEN_LOOPS)
    numbers["open_loops"] = float(len(starts))
    if len(starts):
        arrays |= measures.open_loop(
            view,
            states=rows.states,
            actions=rows.actions,
            next_states=rows.next_states,
            starts=starts,
            steps=steps,
            columns=own,
            given=np.array(task.given, np.int64),
        )
        for after in sorted({min(10, steps), steps}):
            numbers[f"drift/{after}"] = float(np.median(arrays["drift"][after]))

    generator = seeds.generator(seed, "inspection")
    groups = measures.separation(
        view,
        held_out=judged,
        low=task.action_low,
        high=task.action_high,
        generator=generator,
        others=others,
    )
    numbers |= measures.separation_numbers(groups, view.limit)
    arrays |= {f"group/{name}": values for name, values in groups.items()}

    plane = measures.principal_plane(rows.states)
    map_rows = measures.spread_out(np.arange(len(rows.states)), _POINTS)
    known_map = measures.known_map(view, plane, rows.states[map_rows], rows.actions[map_rows])
    arrays |= {f"map/{name}": values for name, values in known_map.items()}
    arrays["map/share"] = plane.share
    for label, places in paths:
        arrays[f"path/{label}"] = plane.place(places)

    record.arrays("models", arrays)
    for name, figure in drawings(arrays).items():
        record.image(name, figures.png(figure))
    stage.histograms(0, {f"disagreement/{name}": values for name, values in groups.items()})
    stage.log(1, numbers)
    return numbers


def load(folder: pathlib.Path, name: str) -> dict[str, Array]:
    """inspection/NAME.npz of a run; empty where there is none."""
    path = folder / "inspection" / f"{name}.npz"
    return files.read_arrays(path, "workdir") if path.exists() else {}


def _under(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def drawings(arrays: dict[str, Array]) -> dict[str, Figure]:
    """The pictures of inspection/models.npz, in reading order."""
    names = [str(name) for name in arrays["names"]]
    drawn = {"errors": figures.errors(names, arrays["error"], arrays["member_error"])}
    groups, limit = _under(arrays, "group/"), float(arrays["limit"])
    numbers = measures.separation_numbers(groups, limit)
    drawn["separation"] = figures.separation(groups, limit, numbers)
    paths = list(_under(arrays, "path/").items())
    drawn["known_map"] = figures.known_map(
        **_under(arrays, "map/"), paths=paths, limited=0 < float(arrays["limit"]) < np.inf
    )
    if "coverage" in arrays:
        drawn["calibration"] = figures.calibration(arrays["level"], arrays["coverage"])
    if "drift" in arrays:
        drawn["open_loop"] = figures.open_loop(
            arrays["predicted"], arrays["recorded"], arrays["drift"], names
        )
    return drawn


def draw_candidates(arrays: dict[str, Array]) -> Figure:
    """The picture of inspection/candidates.npz."""
    names, titles = ([str(x) for x in arrays[key]] for key in ("names", "titles"))
    return figures.candidates(arrays["states"], arrays["keep"], arrays["weights"], names, titles)
