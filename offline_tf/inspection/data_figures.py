"""Pictures of logged data: series with their episodes, histograms with bounds, what answers to what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from offline_tf.inspection.figures import COLOURS, new, styled
from offline_tf.types import Array

_MOST_POINTS = 2000  # of a line; beyond, the least and the largest of each piece are drawn
_BINS = 60
_MOST_ENDS = 200  # of episodes that are marked


def _thinned(values: Array) -> tuple[Array, Array]:
    """Rows and values to draw: all, or the least and the largest of each piece, in their order."""
    if len(values) <= _MOST_POINTS:
        return np.arange(len(values)), values
    pieces = np.array_split(np.arange(len(values)), _MOST_POINTS // 2)
    rows = [sorted((p[np.argmin(values[p])], p[np.argmax(values[p])])) for p in pieces]
    at = np.array(rows).reshape(-1)
    return at, values[at]


@styled
def series(names: Sequence[str], values: Array, ends: Array, actions: int) -> Figure:
    """One line per column over the rows, with the ends of episodes.

    Args:
      names: of the columns.
      values: [N, C]; the last `actions` columns are actions.
      ends: row numbers at which episodes end.
      actions: how many columns are.
    """
    figure, axes = new(11.0, max(1.1 * len(names), 2.5), rows=len(names))
    for number, (name, axis) in enumerate(zip(names, axes[:, 0], strict=True)):
        is_action = number >= len(names) - actions
        at, drawn = _thinned(values[:, number])
        style = "steps-post" if is_action else "default"
        axis.plot(at, drawn, color=COLOURS[1 if is_action else 0], linewidth=0.9, drawstyle=style)
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        for end in ends if len(ends) <= _MOST_ENDS else ():
            axis.axvline(end + 0.5, color=COLOURS[5], linewidth=0.6)
        axis.set_xlim(0, max(len(values) - 1, 1))
        if number < len(names) - 1:
            axis.tick_params(labelbottom=False)
    axes[-1, 0].set_xlabel("row; vertical lines end episodes" if len(ends) <= _MOST_ENDS else "row")
    return figure


@styled
def histograms(
    names: Sequence[str], values: Array, bounds: Sequence[tuple[float, float] | None]
) -> Figure:
    """One histogram per column, with the bounds where it has some.

    Args:
      names: of the columns.
      values: [N, C].
      bounds: of each column, or None.
    """
    columns = min(len(names), 4)
    figure, axes = new(11.0, 1.9 * -(-len(names) // columns), -(-len(names) // columns), columns)
    for number, axis in enumerate(axes.reshape(-1)):
        if number >= len(names):
            axis.set_axis_off()
            continue
        drawn = values[:, number][np.isfinite(values[:, number])]
        axis.hist(drawn, bins=_BINS, color=COLOURS[0 if bounds[number] is None else 1])
        axis.set_title(names[number])
        axis.set_yticks([])
        for bound in bounds[number] or ():
            axis.axvline(bound, color=COLOURS[3], linewidth=1.0, linestyle="--")
    return figure


@styled
def answers(lags: Array, correlation: dict[tuple[str, str], Array]) -> Figure:
    """How changes of measurements go with changes of actions before, over the lag.

    Args:
      lags: [L] steps.
      correlation: (action, measurement) -> [L].
    """
    actions = list(dict.fromkeys(action for action, _ in correlation))
    figure, axes = new(11.0, 2.4 * len(actions), rows=len(actions))
    for action, axis in zip(actions, axes[:, 0], strict=True):
        lines = {seen: found for (moved, seen), found in correlation.items() if moved == action}
        strongest = sorted(lines, key=lambda name: -np.abs(lines[name]).max())[: len(COLOURS)]
        for name, colour in zip(strongest, COLOURS, strict=False):
            axis.plot(lags, lines[name], label=name, color=colour)
        axis.axhline(0.0, color=COLOURS[5], linewidth=0.6)
        axis.set_title(f"after a change of {action}")
        axis.legend(loc="upper right")
    axes[-1, 0].set_xlabel("steps later")
    return figure


@styled
def forecast(
    names: Sequence[str],
    states: Array,
    logged: Array,
    action_names: Sequence[str],
    actions: tuple[Array, Array, Array],
    known: Array,
    dt: float,
) -> Figure:
    """What models expect beside what was logged: a line and a band per signal, then the actions.

    Args:
      names: of the C signals.
      states: [T + 1, M, C] by model; the band is their range.
      logged: [L + 1, C].
      action_names: A names.
      actions: of the forecast [T, M, A]; logged [L, A]; suggested by the controller there [L, A].
      known: [T] bool; what is not known is shaded.
      dt: seconds a step.
    """
    count = len(names) + len(action_names)
    figure, axes = new(11.0, max(1.3 * count, 3.0), rows=count)
    panels = axes[:, 0]
    steps, before = dt * np.arange(len(states)), dt * np.arange(len(logged))
    for number, name in enumerate(names):
        axis, paths = panels[number], states[:, :, number]
        axis.plot(before, logged[:, number], color=COLOURS[5], linewidth=1.0, label="log")
        axis.plot(steps, paths.mean(axis=1), color=COLOURS[0], linewidth=1.2, label="models")
        axis.fill_between(
            steps, paths.min(axis=1), paths.max(axis=1), color=COLOURS[0], alpha=0.25, linewidth=0
        )
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    done, taken, suggested = actions
    for number, name in enumerate(action_names):
        axis, drawn = panels[len(names) + number], {"drawstyle": "steps-post", "linewidth": 1.0}
        axis.plot(before[:-1], taken[:, number], color=COLOURS[5], label="log", **drawn)
        axis.plot(steps[:-1], done[:, :, number].mean(1), color=COLOURS[1], label="done", **drawn)
        axis.plot(
            before[:-1],
            suggested[:, number],
            color=COLOURS[2],
            linestyle=":",
            label="controller, in the log's states",
            **drawn,
        )
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~known, [False]]).astype(int)))
    for number, axis in enumerate(panels):
        for first, beyond in edges.reshape(-1, 2):
            axis.axvspan(dt * first, dt * beyond, color=COLOURS[3], alpha=0.12, linewidth=0)
        axis.set_xlim(0, max(steps[-1], before[-1]))
        if number in (0, len(names)):
            place = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.98)}
            axis.legend(**place, fontsize=7, ncol=3, frameon=False)
        if number < count - 1:
            axis.tick_params(labelbottom=False)
    panels[-1].set_xlabel("seconds; shaded where the models do not know what is done")
    return figure
