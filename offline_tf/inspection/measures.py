"""What fitted models know of data they were not fitted on; numbers for a person to judge them by.

All functions return numpy arrays for `figures`; `View` is what they need of either algorithm's models.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from offline_tf.models import compilation
from offline_tf.numerics import large_columns
from offline_tf.numerics.rank_statistics import auroc
from offline_tf.types import Array, TaskSpec, Tensor

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_ROWS_PER_CALL = 4096
_AXES_ROWS = 20_000
_CONSTANT = 1e-8


class Prediction(NamedTuple):
    """What M members say of B pairs.

    Attributes:
      next_states: [M, B, S] means.
      disagreement: [B], in the units of the limit.
    """

    next_states: Tensor
    disagreement: Tensor


class View(NamedTuple):
    """Fitted dynamics models, whichever algorithm they belong to.

    Attributes:
      predict: (states [B, S], actions [B, A] in the task's units) -> Prediction; see `compiled`.
      limit: a pair is unknown where its disagreement is above.
      names: of the S dimensions.
      spread: (states, actions) -> [M, B, S] standard deviations of each dimension by itself; None
        for models without any.
    """

    predict: Callable[[Tensor, Tensor], Prediction]
    limit: float
    names: tuple[str, ...]
    spread: Callable[[Tensor, Tensor], Tensor] | None = None


def compiled(
    predict: Callable[[Tensor, Tensor], Any], task: TaskSpec
) -> Callable[[Tensor, Tensor], Any]:
    """The function as one graph for any number of pairs."""
    shapes = [tf.TensorSpec([None, n], tf.float32) for n in (task.state_dim, task.action_dim)]
    return compilation.function(predict, input_signature=shapes)


class Rows(NamedTuple):
    """Transitions to judge by: states, actions, next states, [n, S], [n, A], [n, S]."""

    states: Array
    actions: Array
    next_states: Array

    def at(self, rows: Array) -> Rows:
        """Some of them."""
        return Rows(*(column[rows] for column in self))


def spread_out(rows: Array, count: int) -> Array:
    """At most `count` of the row numbers, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), count)).astype(np.int64)]


def predict(view: View, states: Array, actions: Array) -> Prediction:
    """`view.predict` of many pairs, in numpy."""
    parts = [
        [x.numpy() for x in view.predict(tf.constant(states[part]), tf.constant(actions[part]))]
        for part in large_columns.blocks(len(states), _ROWS_PER_CALL)
    ]
    next_states, doubt = (list(x) for x in zip(*parts, strict=True))
    return Prediction(np.concatenate(next_states, axis=1), np.concatenate(doubt))


def _changes(rows: Rows) -> Array:
    """[S] spread of s' - s: the unit of errors; 1 where nothing changes."""
    spread = (rows.next_states - rows.states).std(axis=0)
    return np.where(spread < _CONSTANT, 1.0, spread)


def errors(rows: Rows, found: Prediction) -> dict[str, Array]:
    """One-step errors per dimension, root mean square, in units of the spread of s' - s.

    Args:
      rows: held out.
      found: predictions of them.

    Returns:
      "error" [S], of the members' mean; "member_error" [M, S].
    """
    unit = _changes(rows)
    mean = (found.next_states.mean(axis=0) - rows.next_states) / unit
    single = (found.next_states - rows.next_states) / unit
    return {
        "error": np.sqrt(np.mean(mean**2, axis=0)),
        "member_error": np.sqrt(np.mean(single**2, axis=1)),
    }


def calibration(rows: Rows, next_states: Array, std: Array) -> dict[str, Array]:
    """How often the truth lies within the models' central intervals.

    Members are taken together as one Gaussian: their mean, and the mean of their variances plus the
    variance of their means.

    Args:
      rows: held out, n of them.
      next_states, std: [M, n, S] means and standard deviations of the members.

    Returns:
      "level" [L], what a calibrated model would show; "coverage" [L, S], what was seen.
    """
    mean = next_states.mean(axis=0)
    spread = np.sqrt((std**2).mean(axis=0) + next_states.var(axis=0))
    distance = np.abs(rows.next_states - mean) / np.maximum(spread, 1e-12)
    normal = statistics.NormalDist()
    bounds = [normal.inv_cdf(0.5 + 0.5 * level) for level in LEVELS]
    return {
        "level": np.array(LEVELS),
        "coverage": np.stack([(distance <= bound).mean(axis=0) for bound in bounds]),
    }


def open_loop_starts(bounds: Array, held_out: Array, steps: int, count: int) -> Array:
    """Rows of held-out episodes from which `steps` recorded steps follow.

    Every episode that is long enough is taken about as often, at places spread over its length.

    Args:
      bounds: [E, 2] first row and one past the last of each episode.
      held_out: row numbers of whole episodes.
      steps: to follow within the episode.
      count: rows at most.

    Returns:
      [n] row numbers, sorted, none twice.
    """
    is_held_out = np.zeros(int(bounds[-1, 1]) + 1, bool)
    is_held_out[held_out] = True
    last_start = bounds[:, 1] - bounds[:, 0] - steps  # last start after the first row
    fitting = np.flatnonzero((last_start >= 0) & is_held_out[bounds[:, 0]])
    if not len(fitting):
        return fitting
    order = spread_out(fitting, count)
    episodes = order[np.arange(count) % len(order)]
    shares = (0.5 + np.arange(count) * 0.618034) % 1.0  # the golden ratio's places
    starts = bounds[episodes, 0] + (shares * (last_start[episodes] + 1)).astype(np.int64)
    return np.unique(starts)


def open_loop_steps(bounds: Array, held_out: Array, most: int) -> int:
    """Steps of open loops: the median length of held-out episodes, at most `most`, at least 1."""
    chosen = np.isin(bounds[:, 0], held_out)
    lengths = np.diff(bounds[chosen] if chosen.any() else bounds, axis=1)
    return int(np.clip(np.median(lengths), 1, most))


def open_loop(
    view: View,
    *,
    states: Array,
    actions: Array,
    next_states: Array,
    starts: Array,
    steps: int,
    columns: Array | None = None,
    given: Array | None = None,
) -> dict[str, Array]:
    """Predictions over many steps with recorded actions, each member on its own; S is D below.

    Args:
      view: the models.
      states, actions, next_states: the data, [N, S], [N, A], [N, S].
      starts: [E] rows, `steps` rows before the end of their episodes.
      steps: k.
      columns: positions of the D dimensions that are judged; None: all.
      given: positions of signals that follow the recording; None: there are none.

    Returns:
      "predicted" [k + 1, M, E, S], "recorded" [k + 1, E, S]; "drift" [k + 1, E], the root mean
      square over dimensions of the members' mean's error in units of the states' spread.
    """
    unit = np.maximum(states[:: max(len(states) // _AXES_ROWS, 1)].std(axis=0), _CONSTANT)
    count = len(starts)
    first = view.predict(tf.constant(states[starts]), tf.constant(actions[starts])).next_states
    members = len(first)
    follows = np.zeros(0, np.int64) if given is None else given

    def recorded_in(after: Array, step: int) -> Array:
        after[..., follows] = next_states[starts + step][:, follows]
        return after

    predicted = [
        np.repeat(states[starts][None], members, axis=0),
        recorded_in(np.array(first), 0),
    ]
    for step in range(1, steps):
        flat = tf.constant(predicted[-1].reshape(members * count, -1))
        tiled = tf.constant(np.tile(actions[starts + step], (members, 1)))
        after = view.predict(flat, tiled).next_states.numpy().reshape(members, members, count, -1)
        predicted.append(recorded_in(after[np.arange(members), np.arange(members)], step))
    recorded = np.stack([states[starts], *(next_states[starts + step] for step in range(steps))])
    trajectories = np.stack(predicted)
    if columns is not None:
        trajectories, recorded = trajectories[..., columns], recorded[..., columns]
        unit = unit[columns]
    error = (trajectories.mean(axis=1) - recorded) / unit
    return {
        "predicted": trajectories,
        "recorded": recorded,
        "drift": np.sqrt(np.mean(error**2, axis=2)),
    }


def separation(
    view: View,
    *,
    held_out: Rows,
    low: Array,
    high: Array,
    generator: np.random.Generator,
    others: dict[str, tuple[Array, Array]] | None = None,
) -> dict[str, Array]:
    """Disagreement where the data are, and where they are not.

    Args:
      view: the models.
      held_out: pairs of the data that the models were not fitted on.
      low, high: [A] bounds of random actions.
      generator: draws.
      others: name -> (states, actions) to compare with too, such as another policy's.

    Returns:
      Name -> [n] disagreement: "held out"; "shuffled actions", the same states with actions of other
      rows; "random actions", the same with uniform ones; and the others.
    """
    shuffled = held_out.actions[generator.permutation(len(held_out.actions))]
    drawn = generator.uniform(low, high, held_out.actions.shape).astype(np.float32)
    pairs = {
        "held out": (held_out.states, held_out.actions),
        "shuffled actions": (held_out.states, shuffled),
        "random actions": (held_out.states, drawn),
        **(others or {}),
    }
    return {name: predict(view, *pair).disagreement for name, pair in pairs.items()}


def separation_numbers(found: dict[str, Array], limit: float) -> dict[str, float]:
    """AUROC of each group against the held-out pairs, and the share of each that is known."""
    base = found["held out"]
    numbers = {}
    for name, values in found.items():
        numbers[f"known/{name}"] = float((values <= limit).mean())
        if name != "held out":
            disagreement = np.concatenate([base, values])
            numbers[f"auroc/{name}"] = auroc(
                disagreement, np.arange(len(disagreement)) >= len(base)
            )
    return numbers


class Plane(NamedTuple):
    """The plane of the two largest principal axes of standardised states.

    Attributes:
      shift, scale: [S] of the standardisation.
      axes: [2, S], orthonormal.
      share: [2] of the variance.
    """

    shift: Array
    scale: Array
    axes: Array
    share: Array

    def place(self, states: Array) -> Array:
        """[.., S] -> [.., 2]."""
        return ((states - self.shift) / self.scale) @ self.axes.T


def principal_plane(states: Array) -> Plane:
    """Fits the plane to states [N, S]; the largest entry of each axis is positive.

    With a single dimension the second axis is zero.
    """
    chosen = states[spread_out(np.arange(len(states)), _AXES_ROWS)].astype(np.float64)
    shift, scale = chosen.mean(axis=0), np.maximum(chosen.std(axis=0), _CONSTANT)
    padded = np.zeros((max(len(chosen), 2), max(chosen.shape[1], 2)))
    padded[: len(chosen), : chosen.shape[1]] = (chosen - shift) / scale
    _, values, axes = np.linalg.svd(padded, full_matrices=False)
    axes = (
        axes[:2, : chosen.shape[1]]
        * np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(axis=1)])[:, None]
    )
    return Plane(shift, scale, axes, (values**2 / max((values**2).sum(), _CONSTANT))[:2])


def known_map(
    view: View, plane: Plane, states: Array, actions: Array, cells: int = 60
) -> dict[str, Array]:
    """Where the detector knows what happens: disagreement over the plane, in units of the limit.

    A cell's pair is the data's pair next to it in the plane, moved within the plane onto the cell's
    centre; so it is a pair of the data where there are data, and leaves them from their border.

    Args:
      view: the models.
      plane: to look at.
      states, actions: of the data, [n, S], [n, A]; a few thousand rows.
      cells: per axis.

    Returns:
      "x" [cells], "y" [cells], "ratio" [cells (y), cells (x)], "points" [n, 2]. The ratio is to the
      limit, or, where there is none, the disagreement itself.
    """
    points = plane.place(states)
    low, high = np.quantile(points, [0.002, 0.998], axis=0)
    margin = np.maximum(0.35 * (high - low), 0.1)
    x, y = (np.linspace(low[i] - margin[i], high[i] + margin[i], cells) for i in range(2))
    centres = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    nearest = np.concatenate(
        [
            ((part[:, None] - points[None]) ** 2).sum(axis=2).argmin(axis=1)
            for part in np.array_split(centres, max(len(centres) // 200, 1))
        ]
    )
    map_states = states[nearest] + ((centres - points[nearest]) @ plane.axes) * plane.scale
    disagreement = predict(view, map_states.astype(np.float32), actions[nearest]).disagreement
    limit = view.limit if np.isfinite(view.limit) and view.limit > 0 else 1.0
    return {"x": x, "y": y, "ratio": (disagreement / limit).reshape(cells, cells), "points": points}
