"""Pictures of what `inspection` found, and of curves; arrays in, matplotlib figures out.

Ink is one colour that `svg` turns into the page's own, so that a figure reads on light and dark.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from offline_tf.types import Array

_INK = "#14171b"
_GRID = "#9aa0a8"
COLOURS = ("#3b7dd8", "#e07b39", "#2e9e6b", "#d1495b", "#8a63d2", "#8a8f98")
_MOST_BARS = 32
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.alpha": 0.3,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",
    "svg.hashsalt": "figures",
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Gives everything that a function draws the style above."""

    @functools.wraps(draw)
    def styled(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


def new(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of so many inches, and its axes [rows, columns]."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure on white."""
    file = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(file, format="png", dpi=dpi, facecolor="white")
    return file.getvalue()


def svg(figure: Figure, label: str) -> str:
    """The figure as an element for a page: no background, ink in the page's text colour.

    Args:
      figure: to be drawn.
      label: says what it shows, for those who do not see it.
    """
    file = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(file, format="svg", transparent=True, dpi=150, metadata={"Date": None})
    text = file.getvalue()[file.getvalue().index("<svg") :]
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"'DejaVu Sans'(?:, [^;\"]+)?", "inherit", text)
    width = round(96 * 1.25 * figure.get_figwidth())
    label = label.replace("&", "and").replace('"', "'").replace("<", "")
    text = text.replace(
        "<svg", f'<svg role="img" aria-label="{label}" style="max-width: {width}px"', 1
    )
    return text.replace(_INK, "currentColor")


@styled
def errors(names: Sequence[str], error: Array, member_error: Array) -> Figure:
    """Held-out one-step errors by dimension; see `inspection.errors`."""
    order = np.argsort(error)[-_MOST_BARS:]
    figure, axes = new(6.4, 1.0 + 0.22 * len(order))
    axis, at = axes[0, 0], np.arange(len(order))
    axis.barh(at, error[order], color=COLOURS[0], height=0.66, label="members' mean")
    for member in member_error:
        axis.plot(member[order], at, "|", color=COLOURS[1], markersize=7)
    axis.plot([], [], "|", color=COLOURS[1], label="each member")
    axis.set_yticks(at, [names[i] for i in order])
    axis.axvline(
        1.0, color=COLOURS[3], linewidth=1, linestyle="--", label="predicting the mean change"
    )
    axis.set_xlabel("RMS error of s' - s on held-out rows, in units of its spread")
    axis.set_title("One-step error by dimension")
    axis.set_xlim(left=0)
    axis.legend(loc="lower right")
    axis.grid(axis="y", visible=False)
    return figure


@styled
def calibration(level: Array, coverage: Array) -> Figure:
    """Coverage of the models' intervals; see `inspection.calibration`."""
    figure, axes = new(4.2, 3.6)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color=_GRID, linestyle="--", label="calibrated")
    axis.plot(level, coverage, color=COLOURS[0], alpha=0.25, linewidth=0.8)
    axis.plot([], [], color=COLOURS[0], alpha=0.4, linewidth=0.8, label="each dimension")
    axis.plot(level, coverage.mean(axis=1), "o-", color=COLOURS[0], markersize=3, label="mean")
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="central interval of the models")
    axis.set_ylabel("share of held-out rows within")
    axis.set_title("Calibration")
    axis.legend(loc="upper left")
    return figure


@styled
def open_loop(predicted: Array, recorded: Array, drift: Array, names: Sequence[str]) -> Figure:
    """Predictions over many steps; see `inspection.open_loop`."""
    steps = np.arange(len(drift))
    dimensions = np.argsort(-recorded[:, 0].std(axis=0) / _spread(recorded))[:5]
    figure, axes = new(9.0, 4.8, 2, 3)
    axis = axes[0, 0]
    low, middle, high = np.quantile(drift, [0.25, 0.5, 0.75], axis=1)
    axis.fill_between(steps, low, high, color=COLOURS[0], alpha=0.25, linewidth=0)
    axis.plot(steps, middle, color=COLOURS[0])
    axis.set(xlabel="steps", ylabel="error / spread of the states")
    axis.set_title(f"Drift, median and quartiles of {drift.shape[1]}")
    for place, dimension in zip(axes.flat[1:], sorted(dimensions), strict=False):
        for member in range(predicted.shape[1]):
            place.plot(
                steps,
                predicted[:, member, 0, dimension],
                color=COLOURS[1],
                linewidth=0.8,
                alpha=0.8,
            )
        place.plot([], [], color=COLOURS[1], linewidth=0.8, label="members")
        place.plot(steps, recorded[:, 0, dimension], color=_INK, linewidth=1.6, label="recorded")
        place.set_title(str(names[dimension]))
        place.set_xlabel("steps")
    for place in axes.flat[1 + len(dimensions) :]:
        place.set_visible(False)
    if len(dimensions):
        axes.flat[1].legend()
    return figure


def _spread(recorded: Array) -> Array:
    return np.maximum(recorded.reshape(-1, recorded.shape[-1]).std(axis=0), 1e-8)


@styled
def separation(groups: dict[str, Array], limit: float, numbers: dict[str, float]) -> Figure:
    """Disagreement of known and unknown pairs; see `measures.separation`."""
    figure, axes = new(6.4, 3.4)
    axis = axes[0, 0]
    positive = np.concatenate([values[values > 0] for values in groups.values()])
    if not len(positive):
        axis.set_title("Disagreement: 0 everywhere (one model)")
        return figure
    smallest, largest = np.quantile(positive, [0.001, 1.0])
    edges = np.geomspace(smallest, max(largest, 1.001 * smallest), 60)
    for number, (name, values) in enumerate(groups.items()):
        colour = COLOURS[number % len(COLOURS)]
        style = "-" if number < len(COLOURS) else "--"
        known = f"{100 * numbers[f'known/{name}']:.3g} % known"
        area = f", AUROC {numbers[f'auroc/{name}']:.3f}" if f"auroc/{name}" in numbers else ""
        density = np.histogram(values, edges)[0] / max(len(values), 1)
        axis.stairs(density, edges, color=colour, fill=True, alpha=0.18)
        label = f"{name} ({known}{area})"
        axis.stairs(density, edges, color=colour, linestyle=style, label=label)
    if np.isfinite(limit):
        axis.axvline(limit, color=_INK, linestyle="--", linewidth=1.2, label="limit")
    axis.set_xscale("log")
    axis.set(xlabel="disagreement", ylabel="share of pairs per bin")
    axis.set_title("What the detector tells apart")
    axis.set_ylim(0, axis.get_ylim()[1] * (1.1 + 0.12 * len(groups)))
    axis.legend(loc="upper left")
    return figure


@styled
def known_map(
    x: Array,
    *,
    y: Array,
    ratio: Array,
    points: Array,
    share: Array,
    paths: Sequence[tuple[str, Array]] = (),
    limited: bool = True,
) -> Figure:
    """The detector's map, with paths on it; see `inspection.known_map`.

    Args:
      x, y, ratio, points: the map.
      share: [2] of the variance on each axis.
      paths: (label, [.., n, 2] places; NaN where a path is over), drawn in order.
      limited: whether there is a limit, so that a ratio of 1 means something.
    """
    figure, axes = new(6.8, 4.8)
    axis = axes[0, 0]
    log_ratio = np.clip(np.log10(np.maximum(ratio, 1e-6)), -1.5, 1.5)
    mesh = axis.pcolormesh(
        x,
        y,
        log_ratio,
        cmap="PuOr_r",
        vmin=-1.5,
        vmax=1.5,
        shading="nearest",
        rasterized=True,
        alpha=0.75,
    )
    if limited:
        axis.contour(x, y, ratio, levels=[1.0], colors=_INK, linewidths=1.1)
    axis.plot(*points.T, ".", color="#ffffff", markersize=1.2, alpha=0.55, rasterized=True)
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(paths)))
    for (label, places), colour in zip(paths, colours, strict=True):
        lines = places.reshape(-1, *places.shape[-2:])
        for number, line in enumerate(lines):
            axis.plot(*line.T, color=colour, linewidth=0.6, label=label if not number else None)
    axis.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    axis.grid(visible=False)
    axis.set_xlabel(f"first principal axis ({100 * share[0]:.0f} % of the variance)")
    axis.set_ylabel(f"second ({100 * share[1]:.0f} %)")
    axis.set_title("Known (inside the line) and unknown" if limited else "Disagreement; no limit")
    bar = figure.colorbar(mesh, ax=axis, shrink=0.8)
    unit = " / limit" if limited else ""
    bar.set_label(f"log10 of disagreement{unit}", color=_INK)
    bar.ax.tick_params(colors=_INK)
    bar.outline.set_edgecolor(_INK)
    if paths:
        legend = axis.legend(
            loc="upper left", bbox_to_anchor=(-0.05, -0.1), ncols=min(len(paths), 3)
        )
        for line in legend.get_lines():
            line.set_linewidth(2.0)
    return figure


@styled
def candidates(
    states: Array, keep: Array, weights: Array, names: Sequence[str], titles: Sequence[str]
) -> Figure:
    """Candidate trajectories of planned decisions, in two dimensions each.

    Args:
      states: [D, N, H + 1, S] of D decisions.
      keep: [D, N] whether a candidate survived pruning.
      weights: [D, N] of the average.
      names: of the S dimensions.
      titles: of the D decisions.
    """
    figure, axes = new(2.9 * len(states), 4.8, 2, len(states))
    scale = np.maximum(states[:, :, 0].std(axis=(0, 1)), 1e-8)
    for column, (paths, keep_mask, weight) in enumerate(zip(states, keep, weights, strict=True)):
        dimensions = np.argsort(-paths[:, -1].std(axis=0) / scale)[:2]
        for axis in axes[len(dimensions) :, column]:  # of tasks with one observation
            axis.set_visible(False)
        for axis, dimension in zip(axes[:, column], dimensions, strict=False):
            for path, is_kept, share in zip(paths, keep_mask, weight / weight.max(), strict=True):
                colour, alpha = (COLOURS[0], 0.12 + 0.8 * share) if is_kept else (COLOURS[3], 0.25)
                style = "-" if is_kept else ":"
                axis.plot(
                    path[:, dimension], style, color=colour, alpha=float(alpha), linewidth=0.9
                )
            axis.plot(paths[weight.argmax(), :, dimension], color=_INK, linewidth=1.6)
            axis.set_ylabel(str(names[dimension]))
            axis.set_xticks(range(paths.shape[1]))
        axes[0, column].set_title(f"{titles[column]}\n{keep_mask.sum()} of {len(keep_mask)} kept")
        axes[1, column].set_xlabel("steps ahead")
    handles = [
        matplotlib.lines.Line2D([], [], color=COLOURS[0], label="kept (darker: heavier)"),
        matplotlib.lines.Line2D([], [], color=COLOURS[3], linestyle=":", label="pruned"),
        matplotlib.lines.Line2D([], [], color=_INK, label="heaviest"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


@styled
def curves(
    series: Sequence[tuple[str, Array, Array, Array | None]],
    title: str,
    x_label: str,
    y_label: str,
    always_legend: bool = False,
) -> Figure:
    """Lines over steps.

    Args:
      series: (label, [n] steps, [n] values, [n] half widths of their intervals or None).
      title, x_label, y_label: words.
      always_legend: whether a single line has a legend too.
    """
    figure, axes = new(4.6, 2.9)
    axis = axes[0, 0]
    for number, (label, steps, values, half) in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        style = "-" if number < len(COLOURS) else "--"
        mark = "o" if len(steps) == 1 else None
        axis.plot(steps, values, style, color=colour, label=label, marker=mark)
        if half is not None:
            axis.fill_between(
                steps, values - half, values + half, color=colour, alpha=0.2, linewidth=0
            )
    axis.set_title(title)
    axis.set(xlabel=x_label, ylabel=y_label)
    if len(series) > 1 or always_legend:
        axis.legend()
    return figure
