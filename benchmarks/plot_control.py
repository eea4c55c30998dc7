"""Draws what another reward or a constraint changes, and prints it in numbers.

python benchmarks/plot_control.py --output docs/control.png --limit 3.2 planner=RUN/base jump=RUN/jump

The arguments name traces that `python -m mopp_tf.evaluate --watch=height,velocity_x` left, without
".npz".
"""

from __future__ import annotations

import argparse
import json
import pathlib

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

_COLORS = ("#1b6ca8", "#d1603d", "#3f8f5b", "#7a5195")
_DT = 0.05  # HalfCheetah's control period, s


def main() -> None:
    """Reads the traces [steps, episodes] of each evaluation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--limit", type=float, help="m/s, drawn, and violations of it counted")
    parser.add_argument("--numbers", type=pathlib.Path, help="JSON file for the printed numbers")
    parser.add_argument("--shown_steps", type=int, default=200, help="steps drawn of episode 0")
    parser.add_argument("traces", nargs="+", help="NAME=PATH without .npz")
    arguments = parser.parse_args()
    figure, axes = plt.subplots(2, 1, figsize=(9, 5.2), sharex=True, layout="constrained")
    numbers = {}
    for index, named_path in enumerate(arguments.traces):
        name, path = named_path.rsplit("=", 1)
        with np.load(f"{path}.npz") as file:
            height, speed, reward = (file[k] for k in ("height", "velocity_x", "reward"))
        report = json.loads(pathlib.Path(f"{path}.json").read_text())
        measured = {
            "return": float(np.nansum(reward, axis=0).mean()),
            "height": float(np.nanmean(height)),
            "height_95th_percentile": float(np.nanpercentile(height, 95)),
            "speed": float(np.nanmean(speed)),
            "speed_60th_percentile": float(np.nanpercentile(speed, 60)),
        }
        if arguments.limit is not None:
            measured["limit"] = arguments.limit
            measured["share_above_limit"] = float(
                (speed[~np.isnan(speed)] > arguments.limit).mean()
            )
        print(name, {k: round(v, 3) for k, v in measured.items()})
        numbers[name] = measured | {k: v for k, v in report.items() if k not in measured}
        seconds = _DT * np.arange(arguments.shown_steps)
        for axis, values in zip(axes, (height, speed), strict=True):
            axis.plot(
                seconds,
                values[: arguments.shown_steps, 0],
                color=_COLORS[index % len(_COLORS)],
                label=name,
                linewidth=1.2,
            )
    axes[0].set_ylabel("torso height over start, m")
    axes[1].set_ylabel("forward speed, m/s")
    axes[1].set_xlabel("seconds")
    if arguments.limit is not None:
        axes[1].axhline(arguments.limit, color="0.5", linewidth=1, linestyle=":")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(arguments.traces), frameon=False
    )
    if arguments.numbers:
        arguments.numbers.parent.mkdir(parents=True, exist_ok=True)
        arguments.numbers.write_text(json.dumps(numbers, indent=1) + "\n")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, dpi=110)


if __name__ == "__main__":
    main()
