"""Draws true and P-MDP return over planning iterations, one panel per robot, one line per seed.

python benchmarks/plot_returns.py --output docs/returns.png hopper=RUN,RUN,RUN walker2d=RUN,...
"""

from __future__ import annotations

import argparse
import json
import pathlib

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def main() -> None:
    """Reads metrics/planning.evaluation.csv of each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("panels", nargs="+", help="NAME=RUN,RUN,...")
    arguments = parser.parse_args()
    panels = [panel.split("=", 1) for panel in arguments.panels]
    columns = min(len(panels), 2)
    rows_of_panels = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows_of_panels,
        columns,
        figsize=(5.2 * columns, 3.4 * rows_of_panels),
        squeeze=False,
        layout="constrained",
    )
    for axis, (name, folders) in zip(axes.flat, panels, strict=False):
        behavior = []
        for index, folder in enumerate(folders.split(",")):
            rows = np.genfromtxt(
                pathlib.Path(folder, "metrics", "planning.evaluation.csv"),
                delimiter=",",
                names=True,
            )
            manifest = json.loads(pathlib.Path(folder, "manifest.json").read_text())
            behavior.append(manifest["behavior_return"])
            label = index == 0
            axis.plot(
                rows["step"],
                rows["true_return_mean"],
                color="#1b6ca8",
                label="true return, mean action" if label else None,
            )
            axis.plot(
                rows["step"],
                rows["pmdp_return"],
                color="#d1603d",
                linestyle="--",
                label="P-MDP return" if label else None,
            )
        axis.axhline(np.mean(behavior), color="0.5", linewidth=1, label="behaviour policy")
        axis.set_title(name)
        axis.set_xlabel("planning iteration")
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("return")
    axes[0][0].legend(frameon=False, loc="lower right")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, dpi=110)


if __name__ == "__main__":
    main()
