"""Draws the sketches of docs/reading.md: each chart of a run as it should look, and as it should not.

./run.sh python docs/pictures/reading.py

The curves are drawn from formulas; they are no measurements. One SVG per chart goes beside this file.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import matplotlib
import numpy as np

matplotlib.use("Agg")
matplotlib.rcParams |= {
    "svg.hashsalt": "reading",
    "svg.fonttype": "none",
}  # same file at every call
import matplotlib.pyplot as plt  # noqa: E402

_BLUE, _ORANGE, _GREY = "#1b6ca8", "#d1603d", "0.5"
_X = np.linspace(0.0, 1.0, 80)

Curves = list[tuple[str, np.ndarray, str]]


class Pair(NamedTuple):
    """A chart: file name, axes, limits of y, and (label, values, colour) of both sides."""

    name: str
    x_label: str
    y_label: str
    limits: tuple[float, float]
    good: Callable[[Callable[[float], np.ndarray]], Curves]
    bad: Callable[[Callable[[float], np.ndarray]], Curves]


def _rise(rate: float) -> np.ndarray:
    """From 0 to 1, fast at first."""
    return 1.0 - np.exp(-rate * _X)


_ONE = np.ones_like(_X)
PAIRS = (
    Pair(
        "promise",
        "iteration",
        "return",
        (0, 5500),
        lambda noise: [
            ("true", 1500 + 1700 * _rise(4) + noise(60), _BLUE),
            ("P-MDP promises", 1300 + 1750 * _rise(4) + noise(80), _ORANGE),
        ],
        lambda noise: [
            ("true", 1500 + 900 * _rise(9) - 1100 * _X + noise(90), _BLUE),
            ("P-MDP promises", 1300 + 3700 * _rise(3) + noise(80), _ORANGE),
        ],
    ),
    Pair(
        "halt",
        "iteration",
        "share",
        (-0.05, 1.05),
        lambda noise: [("HALT share", 0.12 + 0.45 * np.exp(-6 * _X) + noise(0.03), _BLUE)],
        lambda noise: [("HALT share", 0.985 * _ONE + 0.5 * noise(0.015), _BLUE)],
    ),
    Pair(
        "lengths",
        "iteration",
        "steps",
        (0, 1050),
        lambda noise: [
            ("path", 480 + 460 * _rise(12) + noise(15), _BLUE),
            ("until HALT", 450 + 200 * _rise(12) + noise(50), _ORANGE),
        ],
        lambda noise: [
            ("path", 12 + np.abs(noise(6)), _BLUE),
            ("until HALT", 4 + np.abs(noise(4)), _ORANGE),
        ],
    ),
    Pair(
        "kl",
        "iteration",
        "nats",
        (0, 0.16),
        lambda noise: [
            ("KL", 0.015 * (1 - _X) * (1 + noise(0.08)), _BLUE),
            ("target", 0.015 * (1 - _X), _ORANGE),
        ],
        lambda noise: [
            ("KL", 0.015 * (1 - _X) + np.abs(noise(0.05)), _BLUE),
            ("target", 0.015 * (1 - _X), _ORANGE),
        ],
    ),
    Pair(
        "step",
        "iteration",
        "share",
        (-0.05, 1.1),
        lambda noise: [("step taken", _ONE, _BLUE)],
        lambda noise: [("step taken", np.clip(0.35 + noise(0.25), 0.02, 1.0), _BLUE)],
    ),
    Pair(
        "baseline",
        "iteration",
        "share",
        (-1.0, 1.1),
        lambda noise: [("explained variance", 0.45 + 0.38 * _rise(6) + noise(0.04), _BLUE)],
        lambda noise: [("explained variance", -0.15 + noise(0.25), _BLUE)],
    ),
    Pair(
        "noise",
        "iteration",
        "log std",
        (-2.3, 0.2),
        lambda noise: [
            ("policy", -1 - 0.75 * _X + noise(0.01), _BLUE),
            ("--min_log_std", -2 * _ONE, _GREY),
        ],
        lambda noise: [
            ("policy", np.maximum(-1 - 6 * _X, -2.0), _BLUE),
            ("--min_log_std", -2 * _ONE, _GREY),
        ],
    ),
    Pair(
        "fit",
        "epoch or step",
        "loss",
        (0, 1.1),
        lambda noise: [
            ("training", 0.12 + 0.85 * np.exp(-6 * _X), _BLUE),
            ("held out", 0.16 + 0.8 * np.exp(-6 * _X), _ORANGE),
        ],
        lambda noise: [
            ("training", 0.02 + 0.9 * np.exp(-7 * _X), _BLUE),
            ("held out", 0.25 + 0.65 * np.exp(-9 * _X) + 0.55 * _X**1.5, _ORANGE),
        ],
    ),
    Pair(
        "disagreement",
        "iteration",
        "disagreement",
        (0, 4.5),
        lambda noise: [
            ("mean of the paths", 0.8 + 0.05 * _X + noise(0.02), _BLUE),
            ("threshold", 3 * _ONE, _GREY),
        ],
        lambda noise: [
            ("mean of the paths", 0.8 + 1.9 * _rise(3) + noise(0.04), _BLUE),
            ("threshold", 3 * _ONE, _GREY),
        ],
    ),
    Pair(
        "kept",
        "step of the episode",
        "share",
        (-0.05, 1.05),
        lambda noise: [
            ("kept", np.clip(0.82 + noise(0.08), 0.2, 1), _BLUE),
            ("fallback", np.clip(0.1 + noise(0.07), 0, 1), _ORANGE),
        ],
        lambda noise: [
            ("kept", 0.2 * _ONE, _BLUE),
            ("fallback", np.clip(0.97 + noise(0.03), 0, 1), _ORANGE),
        ],
    ),
    Pair(
        "weights",
        "step of the episode",
        "sample size of 100",
        (0, 105),
        lambda noise: [("effective sample size", np.clip(9 + noise(3), 2, 100), _BLUE)],
        lambda noise: [("effective sample size", 99.5 + 0 * _X, _BLUE)],
    ),
    Pair(
        "alive",
        "step of the episode",
        "reward, share",
        (0, 4),
        lambda noise: [
            ("reward", 3 * _rise(30) + noise(0.12), _BLUE),
            ("alive", 1 - 0.15 * (_X > 0.7), _ORANGE),
        ],
        lambda noise: [
            ("reward", 2.4 * _rise(30) + noise(0.3), _BLUE),
            ("alive", np.exp(-np.maximum(_X - 0.1, 0) * 7), _ORANGE),
        ],
    ),
    Pair(
        "q",
        "step",
        "value",
        (0, 50),
        lambda noise: [("mean", 44 * _rise(14), _BLUE), ("gap", 0.6 + 0.5 * _rise(5), _ORANGE)],
        lambda noise: [("mean", 36 * _X**0.9, _BLUE), ("gap", 0.6 + 9 * _X**2, _ORANGE)],
    ),
)


def _draw(pair: Pair, number: int, path: pathlib.Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.3), sharey=True, layout="constrained")
    for side, (axis, title, curves) in enumerate(
        zip(axes, ("good", "bad"), (pair.good, pair.bad), strict=True)
    ):
        generator = np.random.default_rng([number, side])

        def noise(scale: float, generator: np.random.Generator = generator) -> np.ndarray:
            return generator.normal(0.0, scale, len(_X))

        for label, values, color in curves(noise):
            line = "--" if color == _GREY else "-"
            axis.plot(100 * _X, values, color=color, label=label, linewidth=1.5, linestyle=line)
        axis.set_title(title, fontsize=10, color="#2e7d32" if title == "good" else "#b3261e")
        axis.set_xlabel(f"{pair.x_label} (% of all)", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=7)
    axes[0].set_ylim(*pair.limits)
    axes[0].set_ylabel(pair.y_label, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Writes all sketches."""
    for number, pair in enumerate(PAIRS):
        _draw(pair, number, pathlib.Path(__file__).with_name(f"{pair.name}.svg"))


if __name__ == "__main__":
    main()
